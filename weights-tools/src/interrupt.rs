//! Ctrl-C, and the signal that asks a program to end, while a checkpoint is written.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use omni_core::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

/// The code a program exits with when it was interrupted: 128 and the number of SIGINT.
pub const EXIT_CODE: u8 = 130;

/// The state that signals change.
struct Signals {
    /// Nothing is being written, so that the program can end at once.
    idle: Arc<AtomicBool>,
    /// A signal has come while something was written.
    asked: Arc<AtomicBool>,
}

static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// Lasts as long as a directory is written: an interruption stops the writing, which then removes what is unfinished.
///
/// A second interruption ends the program at once. SIGHUP is left alone, which `nohup` ignores.
pub struct Writing(&'static Signals);

impl Writing {
    /// Begins to listen.
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
        signals.idle.store(false, Ordering::SeqCst);
        Ok(Self(signals))
    }

    /// Returns an error once the program was interrupted.
    ///
    /// # Errors
    /// [`Error::Io`] naming the directory that is written.
    pub fn go_on(&self, out: &Path) -> Result<()> {
        match self.0.asked.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Error::io(out, std::io::Error::other("interrupted; the same command resumes"))),
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.idle.store(true, Ordering::SeqCst);
    }
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let signals = Self { idle: Arc::default(), asked: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // They run in this order: the first signal sets the flag that the second finds set.
            for ends in [&signals.idle, &signals.asked] {
                register_conditional_shutdown(signal, EXIT_CODE.into(), ends.clone())?;
            }
            register(signal, signals.asked.clone())?;
        }
        Ok(signals)
    }
}

/// Whether the program was interrupted while it wrote.
pub fn asked() -> bool {
    SIGNALS.get().is_some_and(|signals| signals.asked.load(Ordering::SeqCst))
}
