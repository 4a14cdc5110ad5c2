//! The talker by itself, on the small checkpoint: what it refuses, and how a run is bounded.

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::ConfigSection;
use omni_core::Result;
use qwen3_omni_moe_talker::{
    Advance, Checkpoint, Dtype, FrameCodes, Place, SamplingOptions, SpeakOptions, SpeakProbe, Speaking, SpeechFinish,
    Talker, TalkerConfig, TalkerContext, TalkerPrompt, Turns, Weights,
};

/// A role that is neither the user's nor the assistant's.
const SYSTEM: u32 = 5;

fn sections() -> (TalkerConfig, Turns) {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    (checkpoint.config().section().unwrap(), checkpoint.config().section().unwrap())
}

fn load(config: &TalkerConfig, turns: Turns) -> Talker {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    Talker::load(&Weights::new(&checkpoint, &Place::Host(Device::flex()), Dtype::F32), config, turns).unwrap()
}

fn noise(rows: usize, width: usize, seed: u64) -> Tensor<2> {
    Tensor::from_data(TensorData::new(testkit::noise(rows * width, seed), [rows, width]), &Device::flex())
}

/// The talker's prompt for turns of one word each by these roles, and an answer of one word.
fn prompt(talker: &Talker, config: &TalkerConfig, turns: Turns, roles: &[u32]) -> Result<Option<TalkerPrompt>> {
    let prompt: Vec<u32> = roles.iter().flat_map(|role| [turns.im_start, *role, 7]).collect();
    let embed = |ids: &[u32]| noise(ids.len(), config.thinker_hidden_size, 1);
    let speaker = config.speaker_id["ethan"];
    talker.prompt(&TalkerContext { prompt: &prompt, answer: &[9], speaker, embed: &embed, tap: None })
}

/// A probe that only listens.
#[derive(Default)]
struct Listener {
    positions: Vec<f32>,
}

impl SpeakProbe for Listener {
    fn input(&mut self, _embeds: &Tensor<2>, position: f32) {
        self.positions.push(position);
    }
}

/// Speaks to the end with made-up residual codes; returns all first codes, and how it ended.
fn speak(
    talker: &Talker,
    prompt: &TalkerPrompt,
    max_codes: usize,
    probe: &mut dyn SpeakProbe,
) -> (Vec<u32>, SpeechFinish) {
    let options = SpeakOptions { sampling: SamplingOptions::talker().seed(3), max_codes, end_code: None };
    let positions = (omni_core::Positions::sequence(0.0, prompt.ids.len()), 0.0);
    let mut speaking: Speaking = talker.begin(prompt, positions, &options, probe).unwrap();
    let mut codes = vec![speaking.first_code()];
    while speaking.finish_reason().is_none() {
        let start = talker.frame_starts(&[&mut speaking]).remove(0);
        let embeds = noise(1, start.first.dims()[1], codes.len() as u64);
        let frame = speaking.take_frame(start, FrameCodes { residual: vec![1, 2, 3], embeds });
        assert_eq!(frame, [speaking.first_code(), 1, 2, 3]);
        let step = Advance { speaking: &mut speaking, text: &prompt.pad, probe: Some(&mut *probe) };
        talker.advance(vec![step]).remove(0).unwrap();
        codes.push(speaking.first_code());
    }
    (codes, speaking.finish_reason().unwrap())
}

#[test]
fn a_run_ends_at_its_limit_or_where_its_context_is_full() {
    let (mut config, turns) = sections();
    let (user, assistant) = (turns.user, turns.assistant);
    let talker = load(&config, turns);
    let spoken = prompt(&talker, &config, turns, &[user, assistant]).unwrap().unwrap();
    let mut listener = Listener::default();
    let (codes, finish) = speak(&talker, &spoken, 6, &mut listener);
    assert_eq!((codes.len(), finish), (6, SpeechFinish::Limit));
    // A code that is not fed back needs no position.
    let first = spoken.ids.len() as f32;
    assert_eq!(listener.positions, (0..5).map(|step| first + step as f32).collect::<Vec<_>>());
    assert_eq!(speak(&talker, &spoken, 6, &mut ()).0, codes, "a probe that only listens changes nothing");
    // Room for the prompt and two more positions: two frames are fed back, and a third code is chosen.
    config.text.max_position_embeddings = spoken.ids.len() + 2;
    let short = load(&config, turns);
    let (codes, finish) = speak(&short, &spoken, 100, &mut ());
    assert_eq!((codes.len(), finish), (3, SpeechFinish::Limit));
}

#[test]
fn a_prompt_must_open_an_assistant_turn_and_other_turns_are_left_out() {
    let (config, turns) = sections();
    let (user, assistant) = (turns.user, turns.assistant);
    let talker = load(&config, turns);
    let roles = |roles: &[u32]| prompt(&talker, &config, turns, roles);
    for wrong in [&[user][..], &[user, SYSTEM], &[]] {
        let error = roles(wrong).unwrap_err().to_string();
        assert!(error.contains("does not open an assistant turn"), "{wrong:?}: {error}");
    }
    let spoken = roles(&[SYSTEM, user, assistant, user, assistant]).unwrap().unwrap();
    assert_eq!(spoken.user, [3, 4, 5, 9, 10, 11]);
    assert_eq!(spoken.embeds.dims()[0], 6 + 9);
    // One word has no rows after it but the one that closes the text.
    assert_eq!(nn::to_f32_vec(&spoken.trailing), nn::to_f32_vec(&spoken.eos));
}

#[test]
fn codec_ids_that_are_not_in_the_table_are_refused() {
    let (config, turns) = sections();
    let talker = load(&config, turns);
    let rows = config.text.vocab_size as u32;
    assert_eq!(talker.codec_rows(&[0, rows - 1]).unwrap().dims()[0], 2);
    assert!(talker.codec_rows(&[]).unwrap_err().to_string().contains("no codec ids"));
    let error = talker.codec_rows(&[0, rows]).unwrap_err().to_string();
    assert!(error.contains(&format!("codec id {rows} is beyond the {rows} rows")), "{error}");
}

#[test]
fn each_fault_of_the_config_is_named() {
    let (config, _) = sections();
    config.validate().unwrap();
    let ids = config.text.vocab_size as u32;
    type Change<'a> = &'a dyn Fn(&mut TalkerConfig);
    let cases: [(Change, &str); 6] = [
        (&|config| config.num_code_groups = 1, "num_code_groups is 1, expected at least 2"),
        (&|config| config.thinker_hidden_size = 0, "thinker_hidden_size"),
        (&|config| config.text.num_key_value_heads = 0, "0 key/value heads"),
        (&|config| config.speaker_id.clear(), "speaker_id lists no speaker"),
        (&|config| config.codec_think_eos_id = ids, "codec_think_eos_id"),
        (&|config| config.speaker_id.extend([("nobody".into(), ids)]), "nobody"),
    ];
    for (change, expected) in cases {
        let mut config = config.clone();
        change(&mut config);
        let fault = config.validate().unwrap_err();
        assert!(format!("{} {}", fault.at, fault.reason).contains(expected), "{expected}: {fault:?}");
    }
}

#[test]
fn the_talker_alone_needs_its_own_tensors_and_no_others() {
    let shards = [1, 2, 3].map(|shard| format!("model-0000{shard}-of-00003.safetensors"));
    let shards = shards.map(|name| std::fs::read(testkit::tiny().join(name)).unwrap());
    let directory = testkit::copy_of_tiny(&["config.json"]);
    let keep = |kept: &dyn Fn(&str) -> bool| {
        let all = shards.each_ref().map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
        let tensors = all.iter().flat_map(|shard| shard.tensors()).filter(|(name, _)| kept(name));
        safetensors::serialize_to_file(tensors, None, &directory.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        Talker::from_checkpoint(&checkpoint, &Place::Host(Device::flex()), Dtype::F32)
    };
    let own = |name: &str| name.starts_with("talker.") && !name.starts_with("talker.code_predictor.");
    keep(&own).unwrap();
    let error = keep(&|name| own(name) && name != "talker.model.norm.weight").unwrap_err().to_string();
    assert!(error.contains("talker.model.norm.weight"), "{error}");
}
