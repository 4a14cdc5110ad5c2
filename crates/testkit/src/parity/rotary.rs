use code2wav::Code2WavConfig;
use moe_talker::TalkerConfig;
use moe_thinker::{DecoderConfig, ThinkerConfig};
use mtp::CodePredictorConfig;
use omni_core::{Positions, Result};
use tm_rope::{Rope, RopeConfig};

use super::case::Case;
use super::model::Model;

/// Up to this position tables must agree closely; beyond it, the last bit of a frequency is multiplied by the position.
const NEAR_POSITION: f32 = 100.0;
const NEAR_TOLERANCE: f64 = 1e-5;
const FAR_TOLERANCE: f64 = 5e-3;

fn decoder_rope(config: &DecoderConfig) -> RopeConfig {
    RopeConfig { head_dim: config.head_dim, theta: config.rope_theta(), section: config.rope_section() }
}

/// Compares the three-axis RoPE tables of thinker and talker.
pub(super) fn mrope(model: &Model, case: &mut Case) -> Result<()> {
    let positions = three_axes(case)?;
    compare(case, "thinker_", &decoder_rope(&model.section::<ThinkerConfig>()?.text), &positions);
    if model.speaks() {
        compare(case, "talker_", &decoder_rope(&model.section::<TalkerConfig>()?.text), &positions);
    }
    Ok(())
}

/// Compares RoPE tables of the released sizes, whatever the checkpoint.
pub(super) fn released(_: &Model, case: &mut Case) -> Result<()> {
    let config = RopeConfig { head_dim: 128, theta: 1e6, section: Some([24, 20, 20]) };
    let positions = three_axes(case)?;
    compare(case, "", &config, &positions);
    let axes: Vec<i64> = config.axis_of_frequency().iter().map(|axis| *axis as i64).collect();
    case.compare_ints("axis_of_frequency", &axes, &[axes.len()]);
    Ok(())
}

/// Compares the one-dimensional RoPE tables of code predictor and vocoder.
pub(super) fn plain(model: &Model, case: &mut Case) -> Result<()> {
    let batch = case.shape("positions")?[0];
    let positions = case.ints("positions")?.into_iter().map(|p| p as f32).collect();
    let positions = Positions::uniform(batch, positions);
    let predictor: CodePredictorConfig = model.section()?;
    let config = RopeConfig::plain(predictor.head_dim, predictor.rope_theta());
    compare(case, "code_predictor_", &config, &positions);
    let code2wav: Code2WavConfig = model.section()?;
    compare(case, "code2wav_", &RopeConfig::plain(code2wav.head_dim(), code2wav.rope_theta()), &positions);
    Ok(())
}

fn three_axes(case: &mut Case) -> Result<Positions> {
    let [_, batch, _] = case.dims("positions")?;
    let values = case.floats("positions")?;
    let axis = values.len() / 3;
    Ok(Positions::new(batch, [0, 1, 2].map(|i| values[i * axis..(i + 1) * axis].to_vec())))
}

fn compare(case: &mut Case, prefix: &str, config: &RopeConfig, positions: &Positions) {
    let [cos, sin] = Rope::new(config).tables(positions);
    let width = config.head_dim;
    let near = |element: usize| (0..3).all(|axis| positions.axis(axis)[element / width] < NEAR_POSITION);
    for (name, table) in [("cos", cos), ("sin", sin)] {
        let shape = [positions.batch(), positions.tokens(), width];
        // The second half of a head repeats the first.
        let values: Vec<f32> = table.chunks(width / 2).flat_map(|half| [half, half].concat()).collect();
        let name = format!("{prefix}{name}");
        case.compare_where(&name, &values, &shape, NEAR_TOLERANCE, near);
        case.compare_where(&name, &values, &shape, FAR_TOLERANCE, |element| !near(element));
    }
}
