//! The normalisation that SEED-TTS's own evaluation uses.

/// The punctuation of Chinese (`zhon` 2.1).
const CHINESE: &str = "＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､\u{3000}、〃〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏﹑﹔·．！？｡。";

/// Removes all punctuation but `'` and makes letters lower case, or, with `by_character`, puts a space between characters, as the
/// evaluation script of SEED-TTS does.
///
/// ```
/// use qwen3_omni_eval::normalise::seed_tts;
/// assert_eq!(seed_tts("It's well-known, OK?", false), "it's wellknown ok");
/// assert_eq!(seed_tts("你好，世界！", true), "你 好 世 界");
/// ```
pub fn seed_tts(text: &str, by_character: bool) -> String {
    let is_removed = |letter: char| letter != '\'' && (letter.is_ascii_punctuation() || CHINESE.contains(letter));
    let kept = text.chars().filter(|letter| !is_removed(*letter));
    match by_character {
        true => kept.filter(|letter| !letter.is_whitespace()).flat_map(|letter| [' ', letter]).skip(1).collect(),
        false => kept.collect::<String>().to_lowercase(),
    }
}
