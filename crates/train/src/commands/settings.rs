use std::path::Path;

use clap::{Args, ValueEnum};
use qwen3_omni_train::stage::{
    AutSettings, CodecSettings, DistillSettings, DpoSettings, GspoSettings, LoraSettings, OnPolicySettings,
    SftSettings, TalkerSettings,
};
use qwen3_omni_train::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::say;

/// Stages that have settings.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stage {
    Sft,
    Aut,
    Distill,
    Talker,
    Dpo,
    Gspo,
    Codec,
}

/// Print all settings of a stage with their defaults, as a file for `--settings`.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train settings sft > sft.toml")]
pub(crate) struct Settings {
    stage: Stage,
    /// With the settings of adapters.
    #[arg(long)]
    lora: bool,
    /// With the settings of a student's own answers.
    #[arg(long)]
    on_policy: bool,
}

impl Settings {
    pub(crate) fn run(&self) -> Result<bool> {
        let (lora, talker) = (self.lora.then(LoraSettings::default), self.lora.then(LoraSettings::talker));
        let text = match self.stage {
            Stage::Sft => written(&SftSettings { lora, ..SftSettings::default() }),
            Stage::Aut => written(&AutSettings::default()),
            Stage::Distill => {
                let on_policy = self.on_policy.then(OnPolicySettings::default);
                written(&DistillSettings { lora, on_policy, ..DistillSettings::default() })
            }
            Stage::Talker => written(&TalkerSettings { lora: talker, ..TalkerSettings::default() }),
            Stage::Dpo => written(&DpoSettings::default()),
            Stage::Gspo => written(&GspoSettings::default()),
            Stage::Codec => written(&CodecSettings::default()),
        }?;
        say(format_args!("{}", text.trim_end()));
        Ok(true)
    }
}

fn written(settings: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(settings).map_err(|error| wrong(&error))
}

/// The defaults, changed by a file and then by single settings `key=value`, as `run.steps=200`.
pub(super) fn read<S: Serialize + DeserializeOwned>(defaults: S, file: Option<&Path>, single: &[String]) -> Result<S> {
    let mut table = Table::try_from(defaults).map_err(|error| wrong(&error))?;
    if let Some(path) = file {
        let named = |error: &dyn std::fmt::Display| Error::Option {
            name: "settings",
            reason: format!("{}: {error}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        overlay(&mut table, text.parse().map_err(|error| named(&error))?);
    }
    for setting in single {
        overlay(&mut table, single_table(setting)?);
    }
    table.try_into().map_err(|error| wrong(&error))
}

/// `a.b=value` as a table. A value that is no TOML is a text.
fn single_table(setting: &str) -> Result<Table> {
    let (key, value) = setting.split_once('=').ok_or_else(|| Error::Option {
        name: "set",
        reason: format!("`{setting}`, expected KEY=VALUE, as run.steps=200"),
    })?;
    let parsed = format!("it = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("it"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let nested =
        key.trim().rsplit('.').fold(value, |value, key| Value::Table(Table::from_iter([(key.to_owned(), value)])));
    match nested {
        Value::Table(table) => Ok(table),
        _ => Ok(Table::new()),
    }
}

fn overlay(table: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (table.get_mut(&key), change) {
            (Some(Value::Table(inner)), Value::Table(changes)) => overlay(inner, changes),
            (_, change) => {
                table.insert(key, change);
            }
        }
    }
}

fn wrong(error: &dyn std::fmt::Display) -> Error {
    Error::Option { name: "settings", reason: error.to_string().trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use qwen3_omni_train::loss::DistillLoss;

    use super::*;

    #[test]
    fn single_settings_change_a_file_and_a_file_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sft.toml");
        std::fs::write(&file, "balance = 0.5\n[run]\nsteps = 7\nrate = 1e-4\n[run.optimizer]\nbeta1 = 0.8\n").unwrap();
        let single = ["run.steps=9".to_owned(), "lora.rank=4".into(), "train=+thinker.lm_head.*".into()];
        let found = read(SftSettings::default(), Some(&file), &single).unwrap();
        assert_eq!((found.balance, found.run.steps, found.run.rate), (0.5, 9, 1e-4));
        assert_eq!((found.run.optimizer.beta1, found.run.optimizer.beta2), (0.8, 0.95));
        assert_eq!((found.lora.unwrap().rank, &found.train[..]), (4, "+thinker.lm_head.*"));
    }

    #[test]
    fn unknown_settings_are_refused_by_name() {
        let error = read(SftSettings::default(), None, &["run.stepz=9".into()]).unwrap_err().to_string();
        assert!(error.contains("stepz"), "{error}");
        assert!(read(SftSettings::default(), None, &["steps".into()]).is_err());
    }

    #[test]
    fn a_divergence_is_a_name_or_has_a_weight() {
        let of = |single: &[String]| read(DistillSettings::default(), None, single).unwrap().divergence;
        assert_eq!(of(&[]), DistillLoss::ReverseKl);
        assert_eq!(of(&["divergence=forward_kl".into()]), DistillLoss::ForwardKl);
        assert_eq!(of(&["divergence.jsd.beta=0.3".into()]), DistillLoss::Jsd { beta: 0.3 });
    }

    #[test]
    fn printed_settings_are_read_back() {
        let text = written(&GspoSettings::default()).unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(table.try_into::<GspoSettings>().unwrap(), GspoSettings::default());
    }
}
