//! Check, before weights are read, that they fit into memory.

use checkpoint::MemoryEstimate;
use omni_core::{Error, Result};

const ADVICE: &str = ". Less need: a quantised checkpoint, on the CPU one stored in bf16, and a model loaded `text_only` or \
                      `without_media`; `memory_limit` sets another limit";

/// Refuses weights whose resident part exceeds the available memory, and warns if resident and mapped parts together do. If the
/// free memory is unknown, nothing is refused.
pub(crate) fn check(estimate: MemoryEstimate, available: Option<u64>) -> Result<()> {
    let Some(available) = available else { return Ok(()) };
    if estimate.resident > available {
        return Err(Error::Memory { needed: estimate.resident, available, advice: ADVICE });
    }
    if estimate.total() > available {
        let needed = estimate.total();
        tracing::warn!(
            needed,
            available,
            "the weights do not fit into memory: parts will be read from disk again and again"
        );
    }
    Ok(())
}

/// Memory in bytes that this process can still allocate, according to the system and its control groups; `None` if unknown. Loading
/// a model on the CPU compares its memory estimate with it.
///
/// ```
/// let enough = qwen3_omni::available_memory().is_none_or(|bytes| bytes > 24 << 30);
/// ```
pub fn available_memory() -> Option<u64> {
    system::available()
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::{Path, PathBuf};

    /// Bytes that a process can still take: those of the machine or of its control group, whichever is less.
    pub(super) fn available() -> Option<u64> {
        let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_of(&text));
        let group = groups.and_then(|group| of_groups(Path::new("/sys/fs/cgroup"), &group));
        machine.into_iter().chain(group).min()
    }

    /// `MemAvailable` of `/proc/meminfo`.
    pub(super) fn of_machine(meminfo: &str) -> Option<u64> {
        let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The control group (version 2) named in `/proc/self/cgroup`.
    pub(super) fn group_of(text: &str) -> Option<PathBuf> {
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(PathBuf::from(path))
    }

    /// The least that the group or one of its parents has left.
    pub(super) fn of_groups(root: &Path, group: &Path) -> Option<u64> {
        group.ancestors().filter_map(|group| of_group(&root.join(group))).min()
    }

    /// The limit of a group less what it uses. Pages of files count as free: the system reclaims them when memory runs short.
    fn of_group(group: &Path) -> Option<u64> {
        let read = |file: &str| std::fs::read_to_string(group.join(file)).ok();
        let limit: u64 = read("memory.max")?.trim().parse().ok()?;
        let used: u64 = read("memory.current")?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let pages = |name: &str| {
            let found = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        };
        let files = pages("inactive_file") + pages("active_file");
        Some(limit.saturating_sub(used.saturating_sub(files)))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    /// Unknown on this system.
    pub(super) fn available() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_must_be_held_is_refused() {
        let estimate = MemoryEstimate { resident: 100, mapped: 1000 };
        assert!(check(estimate, Some(100)).is_ok());
        let error = check(estimate, Some(99)).unwrap_err();
        assert!(matches!(error, Error::Memory { needed: 100, available: 99, .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("need 100 bytes") && message.contains("99 ("), "{message}");
        assert!(check(MemoryEstimate { resident: u64::MAX, mapped: 0 }, None).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machine_and_its_control_groups_say_what_is_available() {
        assert!(system::available().is_some_and(|bytes| bytes > 0));
        let meminfo = "MemTotal:       24 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(system::of_machine(meminfo), Some(2048 * 1024));
        assert_eq!(system::of_machine("MemTotal: 1 kB"), None);
        assert_eq!(system::group_of("0::/a/b\n"), Some("a/b".into()));
        assert_eq!(system::group_of("1:memory:/a\n"), None);
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, used: &str| {
            let group = root.path().join(path);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("memory.max"), limit).unwrap();
            std::fs::write(group.join("memory.current"), used).unwrap();
            std::fs::write(group.join("memory.stat"), "anon 7\ninactive_file 20\nactive_file 10\n").unwrap();
        };
        group("a", "1000\n", "530\n");
        group("a/b", "max\n", "200\n");
        let left = |group: &str| system::of_groups(root.path(), std::path::Path::new(group));
        // A group without a limit has that of its parent.
        assert_eq!(left("a/b"), Some(500));
        assert_eq!(left("c"), None);
        group("a/b", "300\n", "200\n");
        assert_eq!(left("a/b"), Some(130));
    }
}
