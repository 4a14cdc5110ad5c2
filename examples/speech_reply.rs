use qwen3_omni::{GenerateOptions, Message, Omni};
fn main() -> qwen3_omni::Result<()> {
    let omni = Omni::builder("examples/assets/nano").load()?;
    for q in ["what is seven plus five", "repeat red cat nine"] {
        let reply = omni.generate(&[Message::user().text(q)], &GenerateOptions::default().greedy())?;
        println!("{} | {} | {}", reply.text, reply.usage, reply.timings);
        let speech = reply.speech.unwrap();
        println!("{:?}", speech.codes.iter().map(|c| c[0]).collect::<Vec<_>>());
        println!("{:?}", speech.codes.iter().map(|c| c[3]).collect::<Vec<_>>());
    }
    Ok(())
}
