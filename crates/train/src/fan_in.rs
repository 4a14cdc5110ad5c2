//! The number of inputs that meet in an output of a parameter, by its name on disk and its shape.

/// Number of inputs of an output; `None` for what multiplies no inputs: tables, whose rows are taken as they are, and vectors.
pub(crate) fn fan_in(name: &str, shape: &[usize]) -> Option<usize> {
    let is_table =
        ["embed_tokens.weight", "pos_embed.weight", "code_embedding.weight"].iter().any(|end| name.ends_with(end))
            || name.contains("codec_embedding.");
    match *shape {
        _ if is_table => None,
        // Transposed convolutions, `[in, out, kernel]`: two inputs meet in an output if the kernel is twice the stride.
        [inputs, _, _] if name.contains(".block.1.conv.") => Some(2 * inputs),
        [inputs, _, _] if name.contains(".upsample.") && !name.contains("dwconv") => Some(inputs),
        [_, ref inputs @ ..] if !inputs.is_empty() => Some(inputs.iter().product()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted_as_the_layer_reads_them() {
        for (name, shape, expected) in [
            ("thinker.lm_head.weight", &[576, 128][..], Some(128)),
            ("thinker.visual.patch_embed.proj.weight", &[96, 3, 2, 16, 16], Some(1536)),
            ("thinker.audio_tower.conv2d2.weight", &[32, 32, 3, 3], Some(288)),
            ("code2wav.decoder.0.conv.weight", &[192, 128, 7], Some(896)),
            ("code2wav.decoder.1.block.1.conv.weight", &[192, 96, 16], Some(384)),
            ("code2wav.upsample.0.0.conv.weight", &[128, 128, 2], Some(128)),
            ("code2wav.upsample.0.1.dwconv.conv.weight", &[128, 1, 7], Some(7)),
            ("thinker.model.embed_tokens.weight", &[576, 128], None),
            ("talker.code_predictor.model.codec_embedding.2.weight", &[256, 128], None),
            ("thinker.visual.pos_embed.weight", &[64, 96], None),
            ("thinker.model.norm.weight", &[128], None),
        ] {
            assert_eq!(fan_in(name, shape), expected, "{name}");
        }
    }
}
