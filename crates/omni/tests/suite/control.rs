//! Control over an answer's text: given text, hooks, log-probabilities, tool calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use qwen3_omni::{
    Dtype, Event, FinishReason, GenerateOptions, GivenText, Grammar, Message, Omni, PartKind, Reply, Result, Role,
    SamplingOptions, SpeechFilter, TokenHook, TokenHooks,
};
use serde_json::json;

const SUM: &str = "what is seven plus five";
const CALL: &str = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"red\"}}\n</tool_call>";

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

fn question(text: &str) -> [Message; 1] {
    [Message::user().text(text)]
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

#[test]
fn a_text_that_is_read_aloud_sounds_as_if_the_model_had_written_it() {
    let omni = nano();
    let written = omni.generate(&question("repeat red cat nine"), &greedy()).unwrap();
    assert_eq!(written.text, "red cat nine");
    let read = omni.generate(&question("repeat red cat nine"), &greedy().read_aloud("red cat nine")).unwrap();
    assert_eq!(
        (&read.text, &read.token_ids, read.finish_reason),
        (&written.text, &written.token_ids, FinishReason::End)
    );
    assert_eq!(read.speech.unwrap().codes, written.speech.unwrap().codes);
    // Also a text that the model would never write, and longer than it may generate.
    let other = greedy().max_new_tokens(1).read_aloud("nine red green cat");
    let read = omni.generate(&question(SUM), &other).unwrap();
    assert_eq!((read.text.as_str(), read.finish_reason), ("nine red green cat", FinishReason::End));
    assert!(read.speech.is_some_and(|speech| !speech.codes.is_empty()));
    let message = omni.generate(&question(SUM), &greedy().read_aloud("")).unwrap_err().to_string();
    assert!(message.contains("given text"), "{message}");
}

#[test]
fn an_answer_goes_on_from_its_given_beginning() {
    let omni = nano();
    let whole = omni.generate(&question(SUM), &greedy()).unwrap();
    assert_eq!(whole.text, "seven plus five is twelve");
    let given = GivenText::Beginning("seven plus five".into());
    let options = greedy().given(given).max_new_tokens(2);
    let mut session = omni.session();
    session.push(Message::user().text(SUM));
    let continued = session.reply(&options).unwrap();
    assert_eq!((continued.text, continued.token_ids), (whole.text, whole.token_ids));
    session.push(Message::user().text("what is one plus one"));
    let next = session.reply(&greedy().text_only()).unwrap();
    let fresh = omni.generate(&session.messages()[..3], &greedy().text_only()).unwrap();
    assert_eq!(next.token_ids, fresh.token_ids);
    assert!(next.usage.cached_tokens > continued.usage.prompt_tokens);
}

/// Forbids a token and keeps what it is told.
struct Ban {
    id: u32,
    told: Arc<Mutex<Vec<u32>>>,
}

impl TokenHook for Ban {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        logits[self.id as usize] = f32::NEG_INFINITY;
        Ok(())
    }

    fn observe(&mut self, id: u32) -> Result<()> {
        self.told.lock().unwrap().push(id);
        Ok(())
    }
}

#[test]
fn a_hook_forbids_tokens_and_is_told_each_also_in_company() {
    let omni = nano();
    let free = omni.generate(&question(SUM), &greedy().text_only()).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (id, kept) = (free.token_ids[1], told.clone());
    let hook = TokenHooks::new(move |_| Ok(Box::new(Ban { id, told: kept.clone() })));
    let options = greedy().text_only().hook(hook).log_probs(1);
    // The other answer shares steps with the one that is held in check.
    let streams = [omni.stream(&question(SUM), &options), omni.stream(&question(SUM), &greedy().text_only())];
    let [banned, company] = streams.map(|stream| {
        let stream = stream.unwrap();
        std::thread::spawn(move || stream.last().unwrap().unwrap())
    });
    let [banned, company] = [banned, company].map(|reader| match reader.join().unwrap() {
        Event::Done(reply) => reply,
        other => panic!("{other:?}"),
    });
    assert_eq!(company.token_ids, free.token_ids);
    assert!(!banned.token_ids.contains(&id));
    assert_eq!(told.lock().unwrap()[..banned.token_ids.len()], banned.token_ids);
    // The likeliest token before the hook was the one it forbids.
    assert_eq!(banned.log_probs[1].best[0].id, id);
}

#[test]
fn log_probabilities_stand_beside_every_token() {
    let omni = nano();
    let options = greedy().text_only().log_probs(3);
    let reply = omni.generate(&question(SUM), &options).unwrap();
    assert_eq!(reply.log_probs.len(), reply.token_ids.len());
    for (id, place) in reply.token_ids.iter().zip(&reply.log_probs) {
        assert_eq!((place.token.id, place.best[0]), (*id, place.token));
        let sum: f32 = place.best.iter().map(|entry| entry.log_prob.exp()).sum();
        assert!(place.best.len() == 3 && sum <= 1.0 + 1e-5 && place.best.is_sorted_by(|a, b| a.log_prob >= b.log_prob));
    }
    assert!(omni.generate(&question(SUM), &greedy().text_only()).unwrap().log_probs.is_empty());
}

#[test]
fn streamed_log_probabilities_equal_those_of_the_reply_and_none_comes_after_its_text() {
    let omni = nano();
    let streamed = |options: &GenerateOptions| {
        let (mut places, mut text, mut reply) = (Vec::new(), String::new(), None);
        for event in omni.stream(&question(SUM), options).unwrap() {
            match event.unwrap() {
                Event::LogProbs(place) => places.push(place),
                Event::Text(piece) => {
                    text.push_str(&piece);
                    let ids: Vec<u32> = places.iter().map(|place| place.token.id).collect();
                    let known = omni.tokenizer().decode(&ids, true);
                    assert!(options.log_probs.is_none() || known.starts_with(&text), "{text:?} after {known:?}");
                }
                Event::Done(done) => reply = Some(done),
                _ => {}
            }
        }
        (places, reply.unwrap())
    };
    let asked = greedy().log_probs(2);
    // Text that is held back, text that is given, and text that is none.
    let cases =
        [asked.clone(), asked.clone().stop(["five is"]), asked.clone().read_aloud("red cat"), asked.read_aloud(CALL)];
    for options in cases {
        let (places, reply) = streamed(&options);
        assert_eq!((&places, places.len()), (&reply.log_probs, reply.token_ids.len()));
        assert!(!places.is_empty() && places.iter().all(|place| place.best.len() == 2));
        let ids: Vec<u32> = places.iter().map(|place| place.token.id).collect();
        let ends = places.iter().map(|place| place.text_end);
        let lengths = (1..=ids.len()).map(|count| omni.tokenizer().decode(&ids[..count], true).len());
        assert!(!reply.tool_calls.is_empty() || ends.eq(lengths), "{places:?}");
    }
    assert!(streamed(&greedy()).0.is_empty());
}

#[test]
fn tool_calls_are_events_and_never_spoken() {
    let omni = nano();
    let calls = |options: &GenerateOptions| {
        let mut session = omni.session();
        session.push(Message::user().text(SUM));
        let (mut text, mut calls, mut reply) = (String::new(), Vec::new(), None);
        for event in session.answer(options).unwrap() {
            match event.unwrap() {
                Event::Text(piece) => text.push_str(&piece),
                Event::ToolCall(call) => calls.push(call),
                Event::Done(done) => reply = Some(done),
                _ => {}
            }
        }
        let reply = reply.unwrap();
        assert_eq!((&text, &calls), (&reply.text, &reply.tool_calls));
        (session, reply)
    };
    let (mut session, alone) = calls(&greedy().read_aloud(CALL));
    assert_eq!((alone.text.as_str(), alone.tool_calls.len()), ("", 1));
    assert_eq!((alone.tool_calls[0].name.as_str(), &alone.tool_calls[0].arguments), ("look", &json!({"at": "red"})));
    assert!(alone.speech.is_none(), "a call is not spoken");
    let last = session.messages().pop().unwrap();
    assert_eq!(last.role(), Role::Assistant);
    // What the template makes of the call is what the model wrote: all of it is in the prefix cache.
    session.push(Message::tool("cat"));
    let next = session.reply(&greedy().text_only()).unwrap();
    assert!(next.usage.cached_tokens >= alone.usage.prompt_tokens + alone.token_ids.len());
    let said = omni.generate(&question(SUM), &greedy().read_aloud("red cat")).unwrap();
    let (_, both) = calls(&greedy().read_aloud(format!("red cat\n{CALL}")));
    assert_eq!((both.text.as_str(), both.tool_calls.len()), ("red cat", 1));
    assert_eq!(both.speech.unwrap().text_ends, said.speech.unwrap().text_ends);
}

#[test]
fn tokens_of_a_prompt_are_counted_by_kind() {
    let omni = nano();
    let message = Message::user().text("what do you see").image(testkit::media().join("picture.png"));
    let prompt = omni.prompt(&[message], &greedy()).unwrap();
    let image = prompt.parts().iter().find(|part| part.kind == PartKind::Image).unwrap().tokens;
    let counted = prompt.tokens_by_kind();
    assert_eq!((counted.image, counted.text, counted.audio, counted.video), (image, prompt.tokens() - image, 0, 0));
    assert_eq!((counted.total(), image > 0), (prompt.tokens(), true));
}

/// Codec frames of each word in the recordings that nano's voice was made from; an answer is the words, joined.
const FRAMES: [(&str, usize); 24] = [
    ("zero", 9),
    ("one", 6),
    ("two", 6),
    ("three", 7),
    ("four", 9),
    ("five", 8),
    ("six", 8),
    ("seven", 9),
    ("eight", 5),
    ("nine", 9),
    ("ten", 7),
    ("eleven", 9),
    ("twelve", 7),
    ("thirteen", 11),
    ("seventeen", 13),
    ("red", 8),
    ("cat", 6),
    ("dog", 7),
    ("triangle", 11),
    ("a", 4),
    ("is", 5),
    ("plus", 8),
    ("minus", 8),
    ("horse", 8),
];

#[test]
fn what_was_heard_of_a_spoken_answer_is_told_to_a_word_at_every_cut() {
    let (omni, frames) = (nano(), HashMap::from(FRAMES));
    let (mut wrong, mut cuts) = (0, 0);
    for question in
        [SUM, "what is nine minus two", "what is ten plus three", "repeat red cat nine", "repeat triangle dog"]
    {
        let reply = omni.generate(&[Message::user().text(question)], &greedy()).unwrap();
        let speech = reply.speech.as_ref().unwrap();
        let words: Vec<&str> = reply.text.split_whitespace().collect();
        let lengths: Vec<usize> = words.iter().map(|word| frames[word]).collect();
        assert_eq!(speech.codes.len(), lengths.iter().sum::<usize>(), "{}", reply.text);
        assert_eq!(speech.words.iter().map(|word| &reply.text[word.text.clone()]).collect::<Vec<_>>(), words);
        for cut in 0..=speech.codes.len() {
            // Half a word is a word.
            let mut end = 0;
            let heard = lengths.iter().filter(|length| (end += *length, 2 * cut + *length >= 2 * end).1).count();
            let played = reply.played(cut * speech.samples_per_frame);
            let told = played.text.split_whitespace().count();
            assert!(told.abs_diff(heard) <= 1, "{}: {told} words instead of {heard} after {cut} frames", reply.text);
            assert!(played.at_most.split_whitespace().count() >= heard && played.at_most.starts_with(&played.text));
            (wrong, cuts) = (wrong + usize::from(told != heard), cuts + 1);
        }
        assert_eq!(reply.played(usize::MAX).text, reply.text);
    }
    assert!(5 * wrong < cuts, "{wrong} of {cuts} cuts are off by a word");
}

#[test]
fn messages_options_and_replies_are_written_and_read_again() {
    let omni = nano();
    let message = Message::user().text("hi").audio("a.wav").image(vec![1u8, 2, 3]).tool_call("f", json!({"x": 1}));
    let written = serde_json::to_string(&message).unwrap();
    let read: Message = serde_json::from_str(&written).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), written);
    assert!(written.contains("\"path\":\"a.wav\"") && written.contains("\"base64\":\"AQID\""), "{written}");
    let options: GenerateOptions = serde_json::from_value(
        json!({"max_new_tokens": 7, "thinker": {"greedy": false, "seed": 3}, "given": {"whole": "x"}}),
    )
    .unwrap();
    assert_eq!((options.max_new_tokens, options.thinker.seed), (7, 3));
    assert_eq!(options.given, GivenText::Whole("x".into()));
    let wrong = serde_json::from_value::<GenerateOptions>(json!({"max_tokens": 7})).unwrap_err().to_string();
    assert!(wrong.contains("max_tokens"), "{wrong}");
    let reply = omni.generate(&question(SUM), &greedy()).unwrap();
    let value = serde_json::to_value(&reply).unwrap();
    assert_eq!((&value["text"], &value["finish_reason"]), (&json!(reply.text), &json!("end")));
    assert_eq!(value["timings"]["total"], json!(reply.timings.total.as_secs_f64()));
    let again: qwen3_omni::Reply = serde_json::from_value(value).unwrap();
    assert_eq!((again.token_ids, again.speech.unwrap().codes), (reply.token_ids, reply.speech.unwrap().codes));
}

#[test]
fn an_answer_follows_its_grammar() {
    let omni = nano();
    let guided = |grammar: Grammar| {
        let options = greedy().text_only().hook(grammar);
        omni.generate(&question(SUM), &options)
    };
    let word = guided(Grammar::Regex("(red|green) (cat|dog)".into())).unwrap();
    assert!(["red cat", "red dog", "green cat", "green dog"].contains(&word.text.as_str()), "{}", word.text);
    assert_eq!(word.finish_reason, FinishReason::End);
    let lark = guided(Grammar::Lark("start: \"nine\" \" \" (\"cat\" | \"dog\")".into())).unwrap();
    assert!(["nine cat", "nine dog"].contains(&lark.text.as_str()), "{}", lark.text);
    let schema = json!({"type": "object", "properties": {"n": {"enum": ["one", "two"]}}, "required": ["n"],
        "additionalProperties": false});
    let object = guided(Grammar::JsonSchema(schema)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&object.text).unwrap();
    assert!(value["n"] == "one" || value["n"] == "two", "{value}");
    // A grammar that is none is refused before anything runs.
    for wrong in [Grammar::Regex("(".into()), Grammar::JsonSchema(json!({"type": "nothing"}))] {
        let message = guided(wrong).unwrap_err().to_string();
        assert!(message.contains("grammar: it cannot be used"), "{message}");
    }
}

#[test]
fn a_model_can_be_made_to_call_functions() {
    let omni = nano();
    let tool = |name: &str, parameters: serde_json::Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    // A reference is found from the root of its own schema.
    let tools = [
        tool(
            "paint",
            json!({"$defs": {"colour": {"enum": ["red", "blue"]}}, "type": "object", "additionalProperties": false,
                "properties": {"colour": {"$ref": "#/$defs/colour"}}, "required": ["colour"]}),
        ),
        tool(
            "look",
            json!({"type": "object", "properties": {"deep": {"type": "boolean"}}, "required": ["deep"],
            "additionalProperties": false}),
        ),
    ];
    let calls = |grammar: Grammar| {
        omni.check_grammar(&grammar).unwrap();
        let options = greedy().text_only().hook(grammar).tools(tools.clone()).max_new_tokens(300);
        omni.generate(&question("repeat red"), &options).unwrap()
    };
    for reply in
        [calls(Grammar::tool_calls(&tools, false).unwrap()), calls(Grammar::tool_calls(&tools[1..], false).unwrap())]
    {
        assert_eq!((reply.tool_calls.len(), reply.text.as_str(), reply.finish_reason), (1, "", FinishReason::End));
        let call = &reply.tool_calls[0];
        match call.name.as_str() {
            "paint" => assert!(["red", "blue"].contains(&call.arguments["colour"].as_str().unwrap()), "{call:?}"),
            _ => assert!(call.name == "look" && call.arguments["deep"].is_boolean(), "{call:?}"),
        }
    }
    assert!(!calls(Grammar::tool_calls(&tools, true).unwrap()).tool_calls.is_empty());
    let wrong = tool("look", json!({"type": "nothing"}));
    let message = omni.check_grammar(&Grammar::tool_calls(&[wrong], false).unwrap()).unwrap_err().to_string();
    assert!(message.contains("grammar: it cannot be used"), "{message}");
    assert!(
        Grammar::tool_calls(&[], false).is_err() && Grammar::tool_calls(&[json!({"function": {}})], false).is_err()
    );
}

#[test]
fn several_answers_share_a_prompt_and_one_seed_gives_all_of_each() {
    let sampled =
        |seed| GenerateOptions::default().seed(seed).thinker(SamplingOptions::default().sampled().temperature(3.0));
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let omni = Omni::builder(testkit::nano()).dtype(dtype).load().unwrap();
        let several = omni.generate_n(&question(SUM), &sampled(5), 3).unwrap();
        let texts: Vec<&str> = several.iter().map(|reply| reply.text.as_str()).collect();
        assert!(texts[0] != texts[1] || texts[1] != texts[2], "{texts:?}");
        for (index, reply) in several.iter().enumerate() {
            assert_eq!(reply.usage.cached_tokens > 0, index > 0);
            // A cached prompt was computed in other pieces, whose rounding to bf16 can decide a draw.
            if dtype == Dtype::Bf16 && index > 0 {
                continue;
            }
            let alone = omni.generate(&question(SUM), &sampled(5 + index as u64)).unwrap();
            assert_eq!(alone.token_ids, reply.token_ids);
            let codes = |reply: &Reply| reply.speech.as_ref().map(|speech| speech.codes.clone());
            assert_eq!(codes(&alone), codes(reply));
        }
    }
    let omni = nano();
    assert!(omni.generate_n(&question(SUM), &greedy(), 0).unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn code_and_links_are_shown_but_not_spoken() {
    let omni = nano();
    let said = |text: &str, speech_filter| {
        let options = greedy().read_aloud(text).speech_filter(speech_filter);
        omni.generate(&question(SUM), &options).unwrap()
    };
    let plain = said("red cat", SpeechFilter::Everything);
    let marked = "red cat\n```\nnine = one\n```\n";
    let filtered = said(marked, SpeechFilter::Prose);
    assert_eq!(filtered.text, marked);
    let [plain, filtered] = [plain, filtered].map(|reply| reply.speech.unwrap());
    let texts = |speech: &qwen3_omni::Speech| speech.words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&plain), texts(&filtered));
    assert!(filtered.codes.len().abs_diff(plain.codes.len()) <= 6);
    assert!(said("```\none\n```", SpeechFilter::Prose).speech.is_none());
}

#[test]
fn everything_can_be_moved_to_another_thread() {
    fn is_send<T: Send + 'static>() {}
    is_send::<qwen3_omni::OmniBuilder>();
    is_send::<qwen3_omni::Session>();
    is_send::<qwen3_omni::Answer>();
    is_send::<qwen3_omni::AsyncEvents<qwen3_omni::Answer>>();
    is_send::<qwen3_omni::ConversationEvents>();
    is_send::<qwen3_omni::ConversationOptions>();
    is_send::<qwen3_omni::Prompt>();
}
