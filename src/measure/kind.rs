//! The part of a model that a tensor belongs to, guessed from its name.

/// Part of a model, by the words that common architectures use in tensor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Token, position and patch embeddings.
    Embedding,
    /// Projections of attention: query, key, value, output.
    Attention,
    /// Feed-forward layers, experts and their routers.
    Mlp,
    /// Gains and biases of normalisation layers.
    Norm,
    /// Biases of all other layers.
    Bias,
    /// Layers that turn the last hidden state into logits, classes or scores.
    Head,
    /// Everything else.
    Other,
}

/// Matched against whole segments of names: these words are too short to look for inside others.
const ATTENTION: [&str; 10] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "qkv", "query", "key", "value", "wq", "wo"];
const MLP: [&str; 14] = [
    "fc1",
    "fc2",
    "c_fc",
    "up_proj",
    "down_proj",
    "gate_proj",
    "gate_up_proj",
    "gate",
    "router",
    "intermediate",
    "output",
    "w1",
    "w2",
    "w3",
];
const EMBEDDING: [&str; 3] = ["wte", "wpe", "shared"];
const HEAD: [&str; 5] = ["head", "classifier", "score", "qa_outputs", "embed_out"];

impl Kind {
    /// All kinds, in the order of tables.
    pub const ALL: [Kind; 7] = [
        Kind::Embedding,
        Kind::Attention,
        Kind::Mlp,
        Kind::Norm,
        Kind::Bias,
        Kind::Head,
        Kind::Other,
    ];

    /// The kind that a tensor's name suggests. A guess from words, good enough to group by.
    ///
    /// ```
    /// use pulse::measure::Kind;
    /// assert_eq!(Kind::of("model.layers.7.self_attn.q_proj.weight"), Kind::Attention);
    /// assert_eq!(Kind::of("model.layers.7.self_attn.q_proj.bias"), Kind::Bias);
    /// assert_eq!(Kind::of("encoder.layer.0.output.LayerNorm.bias"), Kind::Norm);
    /// ```
    #[must_use]
    pub fn of(name: &str) -> Kind {
        let name = name.to_lowercase();
        let segments: Vec<&str> = name.split(['.', '/']).collect();
        let has = |words: &[&str]| segments.iter().any(|segment| words.contains(segment));
        let within = |words: &[&str]| words.iter().any(|word| name.contains(word));
        // The order decides: the norm of an attention layer is a norm, its biases are biases.
        if within(&["norm"])
            || segments.iter().any(|segment| segment.starts_with("ln_") || *segment == "ln")
        {
            Kind::Norm
        } else if segments.last().is_some_and(|last| last.ends_with("bias")) {
            Kind::Bias
        } else if has(&HEAD) || within(&["_head."]) || segments.first() == Some(&"output") {
            Kind::Head
        } else if has(&ATTENTION) || within(&["attn", "attention"]) {
            Kind::Attention
        } else if has(&MLP)
            || within(&["mlp", "ffn", "feed_forward", "expert", "moe", "dense_h_to", "dense_4h_to"])
        {
            Kind::Mlp
        } else if has(&EMBEDDING) || within(&["embed"]) {
            Kind::Embedding
        } else {
            Kind::Other
        }
    }

    /// Name for output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Embedding => "embedding",
            Kind::Attention => "attention",
            Kind::Mlp => "mlp",
            Kind::Norm => "norm",
            Kind::Bias => "bias",
            Kind::Head => "head",
            Kind::Other => "other",
        }
    }
}

/// The name with `*` for layer and expert numbers and without a final `.weight`: the same for the
/// tensors with the same role in all layers.
///
/// ```
/// assert_eq!(pulse::measure::module_of("model.layers.7.self_attn.q_proj.weight"), "model.layers.*.self_attn.q_proj");
/// ```
#[must_use]
pub fn module_of(name: &str) -> String {
    let number =
        |segment: &str| !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let segments: Vec<&str> =
        name.split('.').map(|segment| if number(segment) { "*" } else { segment }).collect();
    segments.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_common_models_have_the_kind_that_one_expects() {
        let expected = [
            (
                Kind::Embedding,
                &[
                    "model.embed_tokens.weight",
                    "transformer.wte.weight",
                    "embeddings.word_embeddings.weight",
                ][..],
            ),
            (
                Kind::Attention,
                &[
                    "h.3.attn.c_attn.weight",
                    "encoder.layer.0.attention.output.dense.weight",
                    "layers.0.attention.wq.weight",
                ],
            ),
            (
                Kind::Mlp,
                &[
                    "model.layers.0.mlp.up_proj.weight",
                    "encoder.layer.0.output.dense.weight",
                    "model.layers.1.block_sparse_moe.experts.7.w2.weight",
                ],
            ),
            (
                Kind::Norm,
                &[
                    "model.norm.weight",
                    "h.0.ln_1.bias",
                    "embeddings.LayerNorm.weight",
                    "model.layers.0.self_attn.q_norm.weight",
                ],
            ),
            (Kind::Bias, &["encoder.layer.0.attention.self.query.bias", "attn.in_proj_bias"]),
            (
                Kind::Head,
                &["lm_head.weight", "output.weight", "classifier.weight", "embed_out.weight"],
            ),
            (Kind::Other, &["pooler.dense.weight", "a", "", "model.layers.0.mixer.A_log"]),
        ];
        for (kind, names) in expected {
            names.iter().for_each(|name| assert_eq!(Kind::of(name), kind, "{name}"));
        }
    }

    #[test]
    fn modules_lose_their_numbers_and_nothing_else() {
        assert_eq!(
            module_of("model.layers.11.mlp.experts.203.w1.weight"),
            "model.layers.*.mlp.experts.*.w1"
        );
        assert_eq!(
            module_of("encoder.layer.0.attention.self.key.bias"),
            "encoder.layer.*.attention.self.key.bias"
        );
        assert_eq!(module_of("conv1..w8"), "conv1..w8");
        assert_eq!(module_of(""), "");
    }
}
