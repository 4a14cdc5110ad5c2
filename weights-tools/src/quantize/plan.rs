//! Which linear layers are quantised, and how: recipes for sizes of memory, and changes to them.

use std::fmt;
use std::str::FromStr;

use checkpoint::{Manifest, Scheme};
use fancy_regex::Regex;
use omni_core::{Error, Result};
use qwen3_omni::Component;
use serde_json::{Map, Value, json};

/// A choice per module that makes the released model fit a GPU of 24, 48 or 80 gigabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// Layers of the thinker and of the code predictor, which is read once per code, and experts of the talker with 4 bits in
    /// groups of 32; every other linear layer with 8 bits in groups of 128; code2wav as it is.
    Gb24,
    /// Thinker, talker and code predictor with 8 bits in groups of 128; encoders and code2wav as they are.
    Gb48,
    /// Talker and code predictor, which run once per frame, with 8 bits in groups of 128; the rest as it is.
    Gb80,
}

impl Recipe {
    /// All recipes, the smallest first.
    pub const ALL: [Recipe; 3] = [Recipe::Gb24, Recipe::Gb48, Recipe::Gb80];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Gb24 => "24gb",
            Recipe::Gb48 => "48gb",
            Recipe::Gb80 => "80gb",
        }
    }

    /// Bits and group of a linear layer, if it is quantised.
    fn of(self, module: &str, component: Component) -> Option<(u32, Option<usize>)> {
        let (fine, coarse) = (Some((4, Some(32))), Some((8, Some(128))));
        let expert = module.contains(".mlp.experts.") || module.contains(".mlp.shared_expert.");
        let head = module.contains("lm_head");
        match (self, component) {
            (_, Component::Code2Wav) => None,
            (Recipe::Gb24, Component::Thinker | Component::CodePredictor) if !head => fine,
            (Recipe::Gb24, Component::Talker) if expert => fine,
            (Recipe::Gb24, _) => coarse,
            (Recipe::Gb48, Component::AudioEncoder | Component::VisionEncoder) => None,
            (Recipe::Gb48, _) => coarse,
            (Recipe::Gb80, Component::Talker | Component::CodePredictor) => coarse,
            (Recipe::Gb80, _) => None,
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Recipe::ALL.into_iter().find(|recipe| recipe.name() == name);
        found.ok_or_else(|| Error::Request(format!("recipe `{name}`: expected 24gb, 48gb or 80gb")))
    }
}

/// Inputs that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// This number of neighbouring inputs.
    Group(usize),
    /// All inputs of an output.
    Channel,
}

impl FromStr for Grouping {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "32" => Ok(Grouping::Group(32)),
            "128" => Ok(Grouping::Group(128)),
            "channel" => Ok(Grouping::Channel),
            other => Err(Error::Request(format!("group `{other}`: expected 32, 128 or channel"))),
        }
    }
}

/// A recipe with changes; without a recipe, one scheme for every linear layer except those of code2wav.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The recipe, which the other fields change.
    pub recipe: Option<Recipe>,
    /// Bits, instead of the recipe's: 4 or 8.
    pub bits: Option<u32>,
    /// Groups, instead of the recipe's; without a recipe 32 for 4 bits, 128 for 8.
    pub group: Option<Grouping>,
    /// Whether quantised layers have zero points.
    pub asymmetric: bool,
    /// Only these parts; empty for all the recipe names.
    pub only: Vec<Component>,
    /// Modules left as they are: full names, or patterns after `re:`, matched from the beginning of a name.
    pub ignore: Vec<String>,
}

/// A plan with its patterns read.
pub(crate) struct Chooser<'a> {
    plan: &'a Plan,
    ignore: Vec<Regex>,
}

impl Plan {
    /// Everything the choice depends on.
    pub(crate) fn identity(&self) -> Map<String, Value> {
        let group = self.group.map(|group| match group {
            Grouping::Group(size) => json!(size),
            Grouping::Channel => json!("channel"),
        });
        let only: Vec<&str> = self.only.iter().map(|component| component.name()).collect();
        let entries = [
            ("recipe", json!(self.recipe.map(Recipe::name))),
            ("bits", json!(self.bits)),
            ("group", json!(group)),
            ("asymmetric", json!(self.asymmetric)),
            ("only", json!(only)),
            ("ignore", json!(self.ignore)),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    pub(crate) fn chooser(&self) -> Result<Chooser<'_>> {
        if self.recipe.is_none() && self.bits.is_none() {
            return Err(Error::Request("neither --recipe nor --bits: expected at least one of them".into()));
        }
        if let Some(bits) = self.bits.filter(|bits| ![4, 8].contains(bits)) {
            return Err(Error::Request(format!("--bits is {bits}, expected 4 or 8")));
        }
        let ignore = self.ignore.iter().map(|text| pattern(text)).collect::<Result<_>>()?;
        Ok(Chooser { plan: self, ignore })
    }
}

fn pattern(text: &str) -> Result<Regex> {
    let regex = match text.strip_prefix("re:") {
        Some(pattern) => format!("^(?:{pattern})"),
        None => format!("^{}$", fancy_regex::escape(text)),
    };
    Regex::new(&regex).map_err(|error| Error::Request(format!("--ignore `{text}` cannot be read: {error}")))
}

impl Chooser<'_> {
    /// Checks that every part and every pattern means something in a checkpoint with these tensors: a misspelt one would pack
    /// what was to be left as it is.
    pub(crate) fn check_names(&self, manifest: &Manifest) -> Result<()> {
        let has = |part: Component| manifest.keys().any(|name| Component::of(name) == Some(part));
        if let Some(part) = self.plan.only.iter().find(|part| !has(**part)) {
            return Err(Error::Request(format!("--only: there is no {} in this checkpoint", part.name())));
        }
        let modules: Vec<&str> = manifest.keys().filter_map(|name| Some(name.rsplit_once('.')?.0)).collect();
        let matches = |regex: &Regex| modules.iter().any(|module| regex.is_match(module).unwrap_or(false));
        match self.plan.ignore.iter().zip(&self.ignore).find(|(_, regex)| !matches(regex)) {
            None => Ok(()),
            Some((text, _)) => Err(Error::Request(no_module(text, &modules))),
        }
    }

    /// How a linear layer of this shape is quantised, if it is.
    pub(crate) fn scheme(&self, module: &str, [_, inputs]: [usize; 2]) -> Option<Scheme> {
        let component = Component::of(&format!("{module}."))?;
        let plan = self.plan;
        let kept = is_router(module)
            || !(plan.only.is_empty() || plan.only.contains(&component))
            || self.ignore.iter().any(|pattern| pattern.is_match(module).unwrap_or(false));
        // Kernels read whole words.
        if kept || !inputs.is_multiple_of(8) || inputs == 0 {
            return None;
        }
        let (bits, group) = match plan.recipe {
            Some(recipe) => recipe.of(module, component)?,
            None if component == Component::Code2Wav && plan.only.is_empty() => return None,
            None => (plan.bits?, plan.bits.map(|bits| if bits == 4 { 32 } else { 128 })),
        };
        let group = match plan.group {
            Some(Grouping::Group(size)) => Some(size),
            Some(Grouping::Channel) => None,
            None => group,
        };
        let group = group.and_then(|size| [size, 32].into_iter().find(|size| inputs.is_multiple_of(*size)));
        Some(Scheme { bits: plan.bits.unwrap_or(bits), group, symmetric: !plan.asymmetric })
    }
}

/// Says that a name or pattern fits no module, with one that may have been meant.
fn no_module(text: &str, modules: &[&str]) -> String {
    let part = text.strip_prefix("re:").unwrap_or(text);
    let meant = modules.iter().find(|module| module.ends_with(part)).or(modules.iter().find(|m| m.contains(part)));
    let advice = match meant {
        Some(module) => format!("did you mean `{module}`?"),
        None => "expected a module's full name, as `thinker.lm_head`, or `re:` and a pattern for such names".to_owned(),
    };
    format!("--ignore `{text}` fits no module of this checkpoint; {advice}")
}

/// Whether a module is a router. Its few values decide which experts run, so they are never rounded.
fn is_router(module: &str) -> bool {
    module.ends_with(".mlp.gate") || module.ends_with(".mlp.shared_expert_gate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Expected;

    fn scheme(plan: &Plan, module: &str, inputs: usize) -> String {
        let found = plan.chooser().unwrap().scheme(module, [64, inputs]);
        found.map_or_else(|| "plain".into(), |scheme| scheme.to_string())
    }

    #[test]
    fn recipes_choose_by_module_and_fall_back_where_groups_do_not_divide() {
        let recipe = |recipe| Plan { recipe: Some(recipe), ..Plan::default() };
        for (module, inputs, schemes) in [
            ("thinker.model.layers.3.self_attn.q_proj", 2048, ["int4 group 32", "int8 group 128", "plain"]),
            ("thinker.model.layers.3.mlp.experts.7.up_proj", 2048, ["int4 group 32", "int8 group 128", "plain"]),
            ("thinker.model.layers.3.mlp.gate", 2048, ["plain"; 3]),
            ("thinker.lm_head", 2048, ["int8 group 128", "int8 group 128", "plain"]),
            ("thinker.audio_tower.conv_out", 7680, ["int8 group 128", "plain", "plain"]),
            ("thinker.visual.blocks.0.mlp.linear_fc2", 4304, ["int8 per channel", "plain", "plain"]),
            ("thinker.visual.blocks.0.attn.proj", 96, ["int8 group 32", "plain", "plain"]),
            (
                "talker.model.layers.0.mlp.shared_expert.up_proj",
                1024,
                ["int4 group 32", "int8 group 128", "int8 group 128"],
            ),
            ("talker.model.layers.0.mlp.shared_expert_gate", 1024, ["plain"; 3]),
            ("talker.model.layers.0.self_attn.o_proj", 2048, ["int8 group 128"; 3]),
            ("talker.codec_head", 1024, ["int8 group 128"; 3]),
            ("talker.code_predictor.lm_head.3", 1024, ["int8 group 128"; 3]),
            (
                "talker.code_predictor.model.layers.4.self_attn.q_proj",
                1024,
                ["int4 group 32", "int8 group 128", "int8 group 128"],
            ),
            ("code2wav.pre_transformer.layers.0.mlp.up_proj", 1024, ["plain"; 3]),
            ("thinker.visual.blocks.0.attn.proj", 30, ["plain"; 3]),
        ] {
            for (one, expected) in Recipe::ALL.into_iter().zip(schemes) {
                assert_eq!(scheme(&recipe(one), module, inputs), expected, "{one} {module}");
            }
        }
    }

    #[test]
    fn changes_apply_to_what_the_recipe_quantises() {
        let (attention, head) = ("thinker.model.layers.3.self_attn.q_proj", "thinker.lm_head");
        let plan = Plan { recipe: Some(Recipe::Gb24), bits: Some(8), asymmetric: true, ..Plan::default() };
        assert_eq!(scheme(&plan, attention, 256), "int8 group 32 with zero points");
        let plan = Plan { bits: Some(4), group: Some(Grouping::Channel), ..Plan::default() };
        assert_eq!(scheme(&plan, head, 256), "int4 per channel");
        assert_eq!(scheme(&plan, "code2wav.upsample.0.1.pwconv1", 256), "plain");
        let plan = Plan { only: vec![Component::Talker], ignore: vec!["talker.codec_head".into()], ..plan };
        assert_eq!(scheme(&plan, head, 256), "plain");
        assert_eq!(scheme(&plan, "talker.codec_head", 256), "plain");
        assert_eq!(scheme(&plan, "talker.text_projection.linear_fc1", 256), "int4 per channel");
        let plan = Plan { bits: Some(8), ignore: vec![r"re:.*layers\.[0-3]\.".into()], ..Plan::default() };
        assert_eq!(scheme(&plan, attention, 256), "plain");
        assert_eq!(scheme(&plan, head, 256), "int8 group 128");
    }

    #[test]
    fn names_that_fit_nothing_are_named_with_what_may_have_been_meant() {
        let manifest = crate::released::config().unwrap().manifest().unwrap();
        let check = |ignore: &str| {
            let plan = Plan { bits: Some(4), ignore: vec![ignore.to_owned()], ..Plan::default() };
            plan.chooser().unwrap().check_names(&manifest)
        };
        // Norms and routers are never packed, but they are there.
        for good in ["thinker.lm_head", "re:talker", "thinker.model.norm", "thinker.model.layers.3.mlp.gate"] {
            check(good).unwrap();
        }
        for (bad, meant) in [
            ("lm_head", "`thinker.lm_head`"),
            ("re:lm_head", "`thinker.lm_head`"),
            ("thinker.lm_heads", "full name"),
            ("re:talker.model.layers.20", "pattern"),
            ("", "did you mean"),
        ] {
            let message = check(bad).unwrap_err().to_string();
            assert!(message.contains(&format!("--ignore `{bad}`")) && message.contains(meant), "{message}");
        }
        let mut silent = manifest.clone();
        silent.retain(|name, _| name.starts_with("thinker."));
        let plan = Plan { bits: Some(4), only: vec![Component::Thinker, Component::Talker], ..Plan::default() };
        let message = plan.chooser().unwrap().check_names(&silent).unwrap_err().to_string();
        assert!(message.contains("--only") && message.contains("talker"), "{message}");
        plan.chooser().unwrap().check_names(&manifest).unwrap();
    }

    #[test]
    fn bad_choices_are_named() {
        let error = |plan: Plan| plan.chooser().err().unwrap().to_string();
        assert!(error(Plan::default()).contains("--recipe nor --bits"));
        assert!(error(Plan { bits: Some(3), ..Plan::default() }).contains("--bits is 3"));
        let plan = Plan { bits: Some(4), ignore: vec!["re:(".into()], ..Plan::default() };
        assert!(error(plan).contains("--ignore `re:(`"));
        assert!("12gb".parse::<Recipe>().unwrap_err().to_string().contains("`12gb`: expected 24gb"));
        assert!("64".parse::<Grouping>().unwrap_err().to_string().contains("`64`: expected 32, 128 or channel"));
    }

    #[test]
    fn the_released_model_fits_the_memory_a_recipe_is_named_after() {
        let released = crate::released::config().unwrap().manifest().unwrap();
        let sizes = [(Recipe::Gb24, 21_414_610_418), (Recipe::Gb48, 37_547_719_842), (Recipe::Gb80, 67_283_841_170)];
        for (recipe, expected) in sizes {
            let plan = Plan { recipe: Some(recipe), ..Plan::default() };
            let chooser = plan.chooser().unwrap();
            let found: usize = released.iter().map(|(name, expected)| bytes(&chooser, name, expected)).sum();
            assert_eq!(found, expected, "{recipe}");
        }
    }

    fn bytes(chooser: &Chooser<'_>, name: &str, expected: &Expected) -> usize {
        let (count, shape) = (expected.elements(), &expected.shape);
        let module = name.strip_suffix(".weight").filter(|_| expected.is_linear());
        match module.and_then(|module| chooser.scheme(module, [shape[0], shape[1]])) {
            Some(scheme) => count * scheme.bits as usize / 8 + shape[0] * scheme.groups_in(shape[1]) * 2 + 16,
            None => count * 2,
        }
    }
}
