//! Load on the server: spoken answers by HTTP, conversations by voice, clients that hang up. JSON lines.
//!
//! ```sh
//! cargo run --release -p qwen3-omni-benches --bin serve_load -- --clients 1,8,64 --seconds 60
//! ```
//!
//! The server runs in this process, on a port of its own, so its first sound can be compared with that of the bare facade and the memory is
//! that of both. Each client asks by a Poisson process of its own and does not wait for its earlier answers.

mod http;
mod numbers;
mod voice;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use qwen3_omni::{Event, GenerateOptions, Message, Omni};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use server::{Config, Limits, Server, serve};
use tokio::net::TcpListener;

use http::{Asked, ask};
use numbers::{quantiles, resident_mb};

/// Load on the server
#[derive(Parser)]
struct Arguments {
    /// Checkpoint directory
    #[arg(long, default_value = "examples/assets/nano")]
    model: PathBuf,
    /// Numbers of clients, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    clients: Vec<usize>,
    /// Seconds of each run
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Mean seconds between two questions of a client
    #[arg(long, default_value_t = 4.0)]
    gap: f64,
    /// Share of the questions whose client hangs up after the first sound
    #[arg(long, default_value_t = 0.1)]
    hang_up: f64,
    /// Spoken turns of a realtime session, one after the other, as they are spoken
    #[arg(long, default_value_t = 10)]
    turns: usize,
    /// Answers at once
    #[arg(long, default_value_t = 8)]
    max_answers: usize,
}

const QUESTION: &str = "what is seven plus five";
/// Answers of the facade alone and of one client, to compare.
const ALONE: usize = 60;

fn main() {
    let arguments = Arguments::parse();
    let omni = Omni::builder(&arguments.model).max_answers(2 * arguments.max_answers + 8).load();
    let omni = match omni {
        Ok(omni) => omni,
        Err(error) => return print(json!({"error": error.to_string()})),
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    runtime.block_on(run(&arguments, omni));
}

#[expect(clippy::print_stdout, reason = "the figures go to standard output")]
fn print(line: serde_json::Value) {
    println!("{line}");
}

async fn run(arguments: &Arguments, omni: Omni) {
    let config = Config::default().model_name("model").max_answers(arguments.max_answers).max_sessions(64);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let server = Server::new(omni.clone(), config);
    let made = async { Ok::<_, ()>(server) };
    tokio::spawn(serve(listener, made, std::future::pending, Limits::default()));
    overhead(omni, address).await;
    for clients in &arguments.clients {
        load(arguments, address, *clients).await;
    }
    if arguments.turns > 0 {
        print(voice::turns(address, &arguments.model, arguments.turns).await);
    }
}

/// First sound of the facade and of the server, in turns.
async fn overhead(omni: Omni, address: SocketAddr) {
    let (mut bare, mut served) = (Vec::new(), Vec::new());
    for _ in 0..ALONE {
        let omni = omni.clone();
        bare.push(tokio::task::spawn_blocking(move || first_sound(&omni)).await.expect("it does not panic"));
        let asked = ask(address, QUESTION, false).await;
        served.extend(asked.first_sound);
    }
    print(
        json!({"what": "first sound, ms, one at a time", "facade": quantiles(&mut bare), "server": quantiles(&mut served)}),
    );
}

fn first_sound(omni: &Omni) -> f64 {
    let begun = Instant::now();
    let options = GenerateOptions::default().speaker("chelsie");
    let answer = omni.stream(&[Message::user().text(QUESTION)], &options).expect("it can be answered");
    let mut first = None;
    for event in answer.flatten() {
        if matches!(event, Event::Audio(_)) {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    first.unwrap_or_default().as_secs_f64() * 1e3
}

async fn load(arguments: &Arguments, address: SocketAddr, clients: usize) {
    let before = resident_mb();
    let (end, arguments) =
        (Instant::now() + Duration::from_secs(arguments.seconds), (arguments.gap, arguments.hang_up));
    let running: Vec<_> =
        (0..clients).map(|index| tokio::spawn(client(address, index as u64, end, arguments))).collect();
    let mut asked = Vec::new();
    for client in running {
        asked.extend(client.await.expect("a client does not panic"));
    }
    print(report(clients, asked, before));
}

/// Asks until the end, and returns what came of all questions.
async fn client(address: SocketAddr, seed: u64, end: Instant, (gap, hang_up): (f64, f64)) -> Vec<Asked> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut running = Vec::new();
    loop {
        let wait = -gap * random.random::<f64>().max(1e-9).ln();
        tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        if Instant::now() >= end {
            break;
        }
        let hangs_up = random.random::<f64>() < hang_up;
        running.push(tokio::spawn(ask(address, QUESTION, hangs_up)));
    }
    let mut asked = Vec::new();
    for one in running {
        asked.push(one.await.expect("a question does not panic"));
    }
    asked
}

fn report(clients: usize, asked: Vec<Asked>, before: u64) -> serde_json::Value {
    let of = |value: fn(&Asked) -> Option<f64>| quantiles(&mut asked.iter().filter_map(value).collect::<Vec<_>>());
    let count = |is: fn(&Asked) -> bool| asked.iter().filter(|asked| is(asked)).count();
    let mut gaps: Vec<f64> = asked.iter().flat_map(|asked| asked.gaps.iter().copied()).collect();
    json!({
        "clients": clients,
        "questions": asked.len(),
        "answered": count(|asked| asked.is_whole),
        "hung up": count(|asked| asked.hung_up),
        "refused": count(|asked| asked.status == 429),
        "lost": count(|asked| !asked.is_whole && !asked.hung_up && asked.status != 429),
        "first text, ms": of(|asked| asked.first_text),
        "first sound, ms": of(|asked| asked.first_sound),
        "between sounds, ms": quantiles(&mut gaps),
        "real-time factor": of(|asked| asked.real_time_factor),
        "resident MB, before and after": [before, resident_mb()],
    })
}
