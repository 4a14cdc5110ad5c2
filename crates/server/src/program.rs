//! The command line of the server (feature `program`), for its own program and for others that offer it.

use std::io::{IsTerminal, stderr};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use qwen3_omni::{Error, Omni, Result};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing_subscriber::EnvFilter;

use crate::{Config, Limits, Server, flags, serve};

/// Flags of a server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServeArguments {
    /// Address to listen at; anything but the machine itself should have a key
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_parser = flags::address)]
    host: IpAddr,
    /// Port to listen at; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Name under which clients ask for the model [default: the directory's]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Keys of which each request must bring one, separated by commas
    #[arg(long, value_name = "KEY,…", env = "OMNI_API_KEY", hide_env_values = true, value_delimiter = ',')]
    api_key: Vec<String>,
    /// Origins whose pages may call the server from a browser
    #[arg(long, value_name = "URL", num_args = 1..)]
    allow_origin: Vec<String>,
    /// Further host names under which the server answers; `*` for any [default: any, unless it listens to the machine itself]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    allow_host: Vec<String>,
    /// Hosts from which media are fetched for clients
    #[arg(long, value_name = "HOST", num_args = 1..)]
    allow_media_host: Vec<String>,
    /// Answers that are made at once; a request asks for no more than these (`n`)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = flags::counted())]
    max_answers: usize,
    /// Requests that may wait for a place
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_waiting: usize,
    /// Seconds after which a waiting request is refused
    #[arg(long, value_name = "S", default_value = "30", value_parser = flags::time)]
    queue_seconds: Duration,
    /// Size of a request's body, in MiB or with a unit, as `64MiB`
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = flags::size)]
    max_body: usize,
    /// Millions of pixels of a picture
    #[arg(long, value_name = "MP", default_value_t = 64, value_parser = flags::counted())]
    max_pixels: usize,
    /// Text tokens of an answer whose request names no limit
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = flags::counted())]
    max_output: usize,
    /// Realtime sessions at once [default: four times the answers]
    #[arg(long, value_name = "N")]
    max_sessions: Option<usize>,
    /// Seconds after which a realtime session ends, or with a unit, as `1h`
    #[arg(long, value_name = "S", default_value = "3600", value_parser = flags::time)]
    max_session: Duration,
    /// Seconds within which an answer must be complete
    #[arg(long, value_name = "S", default_value = "600", value_parser = flags::time)]
    request_timeout: Duration,
    /// Seconds within which a request's body must have come
    #[arg(long, value_name = "S", default_value = "60", value_parser = flags::time)]
    body_timeout: Duration,
    /// Seconds that running answers get when the server is stopped
    #[arg(long, value_name = "S", default_value = "30", value_parser = flags::time)]
    drain: Duration,
    /// What the model is asked of a recording that is to be transcribed
    #[arg(long, value_name = "TEXT")]
    transcription_prompt: Option<String>,
    /// What the model is asked before it reads a text aloud; {text} stands for the text
    #[arg(long, value_name = "TEXT")]
    speech_prompt: Option<String>,
    /// Form of the log
    #[arg(long, value_enum, default_value = "text")]
    log: LogFormat,
    /// Name of the field for thinking text, for example `reasoning`
    #[arg(long, value_name = "NAME", default_value = "reasoning_content")]
    reasoning_field: String,
}

/// The log filter without `RUST_LOG`: requests and warnings, except those of symphonia, whose prober warns about every MP4.
const LOGGED: &str = "warn,qwen3_omni_server=info,symphonia_core=error";

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
}

/// Answers that the model is loaded for beyond those at once: one that was cancelled ends with the step it is in, and its place is
/// given on before.
const ENDING: usize = 8;

impl ServeArguments {
    /// Answers that the model must be loaded for.
    pub fn model_answers(&self) -> usize {
        self.max_answers * 2 + ENDING
    }

    /// Sets the prompts of a model that was taught others, unless flags say what to ask.
    #[must_use]
    pub fn usual_prompts(mut self, transcription: &str, speech: &str) -> Self {
        self.transcription_prompt.get_or_insert_with(|| transcription.to_owned());
        self.speech_prompt.get_or_insert_with(|| speech.to_owned());
        self
    }

    /// Writes what libraries log to standard error.
    pub fn show_logs(&self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
        match self.log {
            LogFormat::Text => lines.with_ansi(stderr().is_terminal()).init(),
            LogFormat::Json => lines.json().init(),
        }
    }

    /// Settings of the server for a model of this name.
    fn config(&self, model_name: &str) -> Config {
        let name = self.served_model_name.as_deref().unwrap_or(model_name);
        let mut config = Config::default()
            .model_name(name)
            .api_keys(self.keys())
            .allowed_origins(&self.allow_origin)
            .allowed_hosts(self.hosts())
            .allowed_media_hosts(&self.allow_media_host)
            .max_answers(self.max_answers)
            .max_waiting(self.max_waiting)
            .queue_time(self.queue_seconds)
            .max_body(self.max_body)
            .max_pixels(self.max_pixels * 1_000_000)
            .max_output_tokens(self.max_output)
            .max_sessions(self.max_sessions.unwrap_or(4 * self.max_answers))
            .session_time(self.max_session)
            .request_time(self.request_timeout)
            .body_time(self.body_timeout)
            .reasoning_field(&self.reasoning_field);
        if let Some(prompt) = &self.transcription_prompt {
            config = config.transcription_prompt(prompt);
        }
        if let Some(prompt) = &self.speech_prompt {
            config = config.speech_prompt(prompt);
        }
        config
    }

    /// The keys, without the spaces and line ends that lists and files of secrets have around them.
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.api_key.iter().map(|key| key.trim()).filter(|key| !key.is_empty())
    }

    /// Refuses keys that are asked for and empty, as those of a secret that is missing: everybody would be let in.
    fn check_keys(&self) -> Result<()> {
        if self.api_key.is_empty() || self.keys().next().is_some() {
            return Ok(());
        }
        let message = "--api-key or OMNI_API_KEY holds no key: expected one or several, separated by commas; leave both out to serve without";
        Err(Error::config(message))
    }

    /// Host names that are answered to: of a server for the machine itself only its own, so that a page whose name is pointed at it
    /// gets nothing.
    fn hosts(&self) -> Option<Vec<String>> {
        if !self.host.is_loopback() && self.allow_host.is_empty() || self.allow_host.iter().any(|name| name == "*") {
            return None;
        }
        let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        Some(own.into_iter().chain([self.host.to_string()]).chain(self.allow_host.iter().cloned()).collect())
    }

    /// Serves until it is told to stop by SIGTERM, SIGINT or Ctrl-C; a second one ends it at once. `load` makes the model while
    /// connections are answered with 503 already; `told` is called with the address.
    ///
    /// # Errors
    /// [`Error::Io`] if the port cannot be had, and the errors of `load`.
    pub fn run(
        &self,
        model_name: &str,
        load: impl FnOnce() -> Result<Omni> + Send + 'static,
        told: impl FnOnce(SocketAddr),
    ) -> Result<()> {
        self.check_keys()?;
        let handles = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
        let failed = |source| Error::io(format!("{}:{}", self.host, self.port), source);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        let served = runtime.block_on(async {
            let listener = TcpListener::bind((self.host, self.port)).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            if !self.host.is_loopback() && self.keys().next().is_none() {
                tracing::warn!("others can reach {address}, and no key is asked for: --api-key sets one");
            }
            let config = self.config(model_name);
            let server = async {
                let omni = tokio::task::spawn_blocking(load).await;
                let omni = omni.map_err(|error| Error::Device(format!("loading stopped: {error}")))??;
                told(address);
                Ok(Server::new(omni, config))
            };
            let limits = Limits::default().drain(self.drain);
            let limits = limits.connections(limits.connections.min(connections(handles)));
            let signals = signals();
            let stop = || async {
                // It is never closed.
                if let Ok(signal) = signals.acquire().await {
                    signal.forget();
                }
            };
            serve(listener, server, stop, limits).await
        });
        // A stage may be in the middle of a step.
        runtime.shutdown_timeout(Duration::from_millis(500));
        served
    }
}

/// Signals to stop, each of which is a permit until it is taken: one that nobody waits for just now is not lost.
fn signals() -> Arc<Semaphore> {
    let signals = Arc::new(Semaphore::new(0));
    let told = signals.clone();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    told.add_permits(1);
                }
            });
            return signals;
        }
    }
    // Without signals the server runs until it is killed.
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            told.add_permits(1);
        }
    });
    signals
}

/// File handles for everything but connections: shards of the model, media that are read, sockets of sessions.
const OTHER_HANDLES: u64 = 256;

/// Connections for which a process may have handles; each takes two.
fn connections(handles: u64) -> usize {
    usize::try_from(handles.saturating_sub(OTHER_HANDLES) / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn connections_leave_handles_for_the_rest() {
        assert_eq!([0, 256, 1024, 10_256].map(connections), [1, 1, 384, 5000]);
    }

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn with_keys(keys: &[&str]) -> ServeArguments {
        let flags = keys.iter().flat_map(|key| ["--api-key", key]);
        Program::try_parse_from(["program"].into_iter().chain(flags)).unwrap().serve
    }

    #[test]
    fn keys_are_read_as_lists_and_files_of_secrets_hold_them() {
        let keys = with_keys(&["sk-a, sk-b", "sk-c\n", ""]);
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["sk-a", "sk-b", "sk-c"]);
        keys.check_keys().unwrap();
    }

    #[test]
    fn a_server_that_was_given_no_key_in_place_of_one_does_not_start() {
        for missing in ["", " ", ",", "\n"] {
            let error = with_keys(&[missing]).check_keys().unwrap_err().to_string();
            assert!(error.contains("OMNI_API_KEY"), "{error}");
        }
    }
}
