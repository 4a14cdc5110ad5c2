//! Ctrl-C, and the signal that asks a program to end, while a checkpoint is written or an answer is generated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use omni_core::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

/// The code a program exits with when it was interrupted: 128 and the number of SIGINT.
pub const EXIT_CODE: u8 = 130;

/// The state that signals change.
#[derive(Debug)]
struct Signals {
    /// There is nothing to finish, so that the program can end at once.
    idle: Arc<AtomicBool>,
    /// A signal has come during the work.
    asked: Arc<AtomicBool>,
}

static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// Lasts as long as there is work that an interruption must not cut off: the first asks for its end, a second ends the program at
/// once.
///
/// SIGHUP is left alone, which `nohup` ignores.
#[derive(Debug)]
pub struct Busy(&'static Signals);

impl Busy {
    /// Begins to listen; an interruption of earlier work is forgotten.
    ///
    /// # Errors
    /// [`Error::Request`] if the system refuses.
    pub fn begin() -> Result<Self> {
        let refused = |error| Error::Request(format!("signals cannot be received: {error}"));
        let signals = match SIGNALS.get() {
            Some(signals) => signals,
            None => {
                let listening = Signals::listen().map_err(refused)?;
                SIGNALS.get_or_init(|| listening)
            }
        };
        signals.asked.store(false, Ordering::SeqCst);
        signals.idle.store(false, Ordering::SeqCst);
        Ok(Self(signals))
    }

    /// Whether the program was interrupted since this began.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle.store(true, Ordering::SeqCst);
    }
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let signals = Self { idle: Arc::default(), asked: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the first signal sets the flag that the second finds set.
            for ends in [&signals.idle, &signals.asked] {
                register_conditional_shutdown(signal, EXIT_CODE.into(), ends.clone())?;
            }
            register(signal, signals.asked.clone())?;
        }
        Ok(signals)
    }
}

/// Whether the last work was interrupted.
pub fn asked() -> bool {
    SIGNALS.get().is_some_and(|signals| signals.asked.load(Ordering::SeqCst))
}
