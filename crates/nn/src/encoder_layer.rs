use crate::{Activation, Engine, LayerNorm, Linear, Qkv};

/// The projections of an encoder's attention.
#[derive(Debug, Clone, Copy)]
pub enum QkvProjection<'a> {
    /// One linear layer each.
    Split([&'a Linear; 3]),
    /// One linear layer, whose output rows hold queries, keys and values side by side.
    Joined(&'a Linear),
}

/// One pre-norm transformer layer of an encoder: attention inside windows, then two linear layers.
#[derive(Debug, Clone, Copy)]
pub struct EncoderLayer<'a> {
    /// The norm before attention, and the norm before the two linear layers.
    pub norms: [&'a LayerNorm; 2],
    /// Queries, keys and values.
    pub qkv: QkvProjection<'a>,
    /// Output projection of attention.
    pub out: &'a Linear,
    /// The two linear layers after attention.
    pub mlp: [&'a Linear; 2],
    /// Activation between the two linear layers.
    pub activation: Activation,
    /// Heads `H`.
    pub heads: usize,
}

impl EncoderLayer<'_> {
    /// Applies the layer.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`; the windows add up to `N`, the rotation has `[N, Dh / 2]` angles.
    pub fn forward<E: Engine>(&self, e: &E, x: E::Rows, windows: &[usize], rotation: Option<&E::Rotation>) -> E::Rows {
        let Self { norms: [norm1, norm2], mlp: [fc1, fc2], .. } = *self;
        let mut h = e.layer_norm(&x, norm1);
        let qkv = match self.qkv {
            QkvProjection::Split(layers) => Qkv::Split(e.linear(&mut h, layers)),
            QkvProjection::Joined(layer) => {
                let [joined] = e.linear(&mut h, [layer]);
                Qkv::Joined(joined) // [N, 3 * D]
            }
        };
        let mut attended = e.window_attention(qkv, self.heads, windows, rotation); // [N, D]
        let x = e.add_linear(x, &mut attended, self.out, None);
        let mut h = e.layer_norm(&x, norm2);
        let mut inner = e.linear_act(&mut h, fc1, self.activation); // [N, inner]
        e.add_linear(x, &mut inner, fc2, None)
    }
}
