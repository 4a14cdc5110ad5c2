//! Room for bodies of requests, all together.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};

/// Bodies of the largest size that are held at once, from their first byte until their answers begin.
const BODIES: usize = 8;
/// Bytes that a permit stands for.
const UNIT: usize = 1 << 10;

/// Room for bodies of at most this many bytes each.
pub(crate) fn room(max_body: usize) -> Arc<Semaphore> {
    let units = (max_body / UNIT + 1).saturating_mul(BODIES);
    Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
}

/// The room that a body takes, free again when all copies of this are dropped.
#[derive(Clone, Default)]
pub(crate) struct Room {
    taken: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Room {
    /// Takes room for `bytes` in all.
    pub(crate) fn grow(&self, room: &Arc<Semaphore>, bytes: usize) -> ApiResult<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let units = bytes.div_ceil(UNIT) - taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let units = u32::try_from(units).map_err(|_| no_room())?;
        let more = room.clone().try_acquire_many_owned(units).map_err(|_| no_room())?;
        match taken.as_mut() {
            Some(taken) => taken.merge(more),
            None => *taken = Some(more),
        }
        Ok(())
    }
}

/// Whether this many bytes are more than what is free.
pub(crate) fn is_beyond(free: &Semaphore, bytes: u64) -> bool {
    bytes / UNIT as u64 > free.available_permits() as u64
}

pub(crate) fn no_room() -> ApiError {
    ApiError::busy("too many large requests are being read; try again later")
}
