//! Conversations with functions: a light, and the weather.

use serde_json::{Value, json};

use crate::data::sound::heard::Ears;
use crate::data::typed::line::{Line, Part};
use crate::data::world::draw::Draw;
use crate::data::world::held::{self, Side};
use crate::data::world::topic::{Group, Topic};
use crate::data::world::words::{CITIES, Colour, Named, WEATHERS};

/// What is said where there is no light to set.
pub const NO_LIGHT: &str = "i have no light";
/// What is said of a weather that cannot be asked for.
pub const UNKNOWN: &str = "i do not know";

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Light,
    Weather,
}

#[derive(Clone, Copy)]
enum Wish {
    Light,
    Weather,
    Sum,
}

impl Tool {
    fn schema(self) -> Value {
        let (name, description, argument) = match self {
            Self::Light => ("set_light", "sets the colour of the light", "colour"),
            Self::Weather => ("get_weather", "tells the weather of a place", "place"),
        };
        json!({"type": "function", "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
        }})
    }
}

/// Written lines with functions, some of which lack the one that is needed.
pub fn lines(side: Side, count: usize, draw: &mut Draw) -> Vec<Line> {
    let line = |draw: &mut Draw| {
        let tools = some_tools(draw);
        match draw.weighted(&[(42, Wish::Light), (42, Wish::Weather), (16, Wish::Sum)]) {
            Wish::Light => {
                let colour = draw.pick(Colour::ALL);
                light(Line::new("tool").asks(light_text(colour)), colour, &tools)
            }
            Wish::Weather => weather(side, &tools, draw),
            Wish::Sum => {
                let sum = side.sum(draw);
                with(Line::new("tool"), &tools).asks(sum.question()).answer(sum.answer())
            }
        }
    };
    (0..count).map(|_| line(draw)).collect()
}

/// A line in which a light is asked for by voice.
pub fn heard_light(draw: &mut Draw, ears: &mut Ears) -> Line {
    let (path, topic) = ears.hear(Group::Light);
    let line = Line::new("heard light").says(&[Part::Sound(path)]);
    let Topic::Light(colour) = topic else { return line };
    light(line, colour, &some_tools(draw))
}

/// The words that ask for a light.
pub fn light_text(colour: Colour) -> String {
    format!("make the light {}", colour.name())
}

/// What is said of a light that was set.
pub fn light_answer(colour: Colour) -> String {
    format!("the light is {}", colour.name())
}

fn light(line: Line, colour: Colour, tools: &[Tool]) -> Line {
    let line = with(line, tools);
    if !tools.contains(&Tool::Light) {
        return line.answer(NO_LIGHT);
    }
    let called = line.call("set_light", &json!({"colour": colour.name()}), &json!({"light": colour.name()}));
    called.answer(light_answer(colour))
}

/// What is said of a weather, by whether it belongs to a side.
pub fn weather_answer(side: Side, draw: &mut Draw) -> (&'static str, &'static str, String) {
    let any = |draw: &mut Draw| {
        let (city, weather) = (draw.pick(&CITIES), draw.pick(&WEATHERS));
        (city, weather, format!("{weather} in {city}"))
    };
    side.of(draw, any, |(_, _, answer)| held::is_sentence(answer))
}

fn weather(side: Side, tools: &[Tool], draw: &mut Draw) -> Line {
    let (city, weather, answer) = weather_answer(side, draw);
    let line = with(Line::new("tool").asks(format!("how is the weather in {city}")), tools);
    if !tools.contains(&Tool::Weather) {
        return line.answer(UNKNOWN);
    }
    line.call("get_weather", &json!({"place": city}), &json!({"weather": weather})).answer(answer)
}

/// None, one or two of the functions in a random order.
fn some_tools(draw: &mut Draw) -> Vec<Tool> {
    let mut tools = vec![Tool::Light, Tool::Weather];
    draw.shuffle(&mut tools);
    tools.truncate(draw.weighted(&[(12, 0), (38, 1), (50, 2)]));
    tools
}

fn with(line: Line, tools: &[Tool]) -> Line {
    line.tools(tools.iter().map(|tool| tool.schema()).collect())
}
