//! How much memory the system leaves to this process: what is available on the host, and what each
//! limit on the process or its control groups leaves.
//!
//! All of it is read from /proc and from the mounted control groups. A limit that cannot be read
//! is taken as none.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What one limit leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Room {
    /// What sets the limit, as an operator knows it.
    pub limit: Limit,
    /// Octets that may still be taken.
    pub left: u64,
}

/// What limits memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Limit {
    /// What the host has available (MemAvailable).
    Host,
    /// A memory control group: its directory, and its limit in octets.
    Group(PathBuf, u64),
    /// A limit of this process: how a shell sets it, and the limit in octets.
    Process(&'static str, u64),
}

impl Limit {
    /// Whether it counts what is reserved, used or not.
    pub const fn is_of_process(&self) -> bool {
        matches!(self, Self::Process(..))
    }
}

/// Where the system describes itself: `/`, or a directory that a test has filled.
pub struct System<'a>(pub &'a Path);

/// A version of control groups: the type of its file system, and the files of a group.
struct Version {
    file_system: &'static str,
    /// Beyond the second, where there is one, a group is slowed down until it hardly runs.
    limits: &'static [&'static str],
    usage: &'static str,
    /// In memory.stat: file pages, which the kernel takes back before it kills.
    file_pages: [&'static str; 2],
}

const VERSION_1: Version = Version {
    file_system: "cgroup",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    file_pages: ["total_inactive_file", "total_active_file"],
};
const VERSION_2: Version = Version {
    file_system: "cgroup2",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    file_pages: ["inactive_file", "active_file"],
};

/// Version 1 writes "no limit" as a number close to this.
const NO_LIMIT: u64 = 1 << 60;
const KIB: u64 = 1024;

impl System<'_> {
    /// What the host and each limit leave.
    pub fn rooms(&self) -> Vec<Room> {
        let host = self.host().map(|left| Room {
            limit: Limit::Host,
            left,
        });
        let limits = self.process();
        host.into_iter()
            .chain(self.groups())
            .chain(limits)
            .collect()
    }

    /// What the limits of this process leave, as far as there are any.
    fn process(&self) -> Vec<Room> {
        /// RLIMIT_AS and RLIMIT_DATA in /proc/self/limits, and what counts against each in
        /// /proc/self/status.
        const LIMITS: [(&str, &str, &str); 2] = [
            ("Max address space", "VmSize:", "ulimit -v"),
            ("Max data size", "VmData:", "ulimit -d"),
        ];
        let [limits, status] =
            ["limits", "status"].map(|file| self.read(Path::new("proc/self").join(file)));
        let (limits, status) = (limits.unwrap_or_default(), status.unwrap_or_default());
        let room = |(name, used, option): (&str, &str, &'static str)| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
            let used = kib_of(&status, used).unwrap_or(0);
            Some(Room {
                limit: Limit::Process(option, limit),
                left: limit.saturating_sub(used),
            })
        };
        LIMITS.into_iter().filter_map(room).collect()
    }

    /// Octets of huge pages that are reserved and free. They count in no control group and are not
    /// in MemAvailable.
    pub fn huge_pages(&self) -> u64 {
        let huge_pages = || {
            let text = self.read("proc/meminfo")?;
            let count: u64 = value_of(&text, "HugePages_Free:")?;
            Some(count * kib_of(&text, "Hugepagesize:")?)
        };
        huge_pages().unwrap_or(0)
    }

    fn host(&self) -> Option<u64> {
        kib_of(&self.read("proc/meminfo")?, "MemAvailable:")
    }

    /// The memory control group of this process, and the groups above it.
    fn groups(&self) -> Vec<Room> {
        let groups = self.read("proc/self/cgroup").unwrap_or_default();
        let mut rooms = Vec::new();
        for line in groups.lines() {
            // number:controllers:path, without controllers in version 2 (cgroups(7)).
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                continue;
            };
            let version = match controllers {
                "" => VERSION_2,
                some if some.split(',').any(|one| one == "memory") => VERSION_1,
                _ => continue,
            };
            if let Some(top) = self.mount_of(&version) {
                rooms.extend(self.rooms_below(&top, Path::new(path), &version));
            }
        }
        rooms
    }

    /// Where a version of control groups is mounted with its memory controller, and which group is
    /// at its top.
    fn mount_of(&self, version: &Version) -> Option<Mount> {
        let mounts = self.read("proc/self/mountinfo")?;
        mounts.lines().find_map(|line| {
            // proc_pid_mountinfo(5): the root and the mount point are the fourth and fifth field.
            let (mount, file_system) = line.split_once(" - ")?;
            let mut kind = file_system.split(' ');
            if kind.next() != Some(version.file_system) {
                return None;
            }
            let options = kind.nth(1).unwrap_or("");
            let has_memory = options.split(',').any(|option| option == "memory");
            if version.file_system == VERSION_1.file_system && !has_memory {
                return None;
            }
            let mut fields = mount.split(' ').skip(3);
            Some(Mount {
                top: fields.next()?.into(),
                at: fields.next()?.into(),
            })
        })
    }

    /// What each group from `path` up to the top of the mount leaves.
    fn rooms_below(&self, mount: &Mount, path: &Path, version: &Version) -> Vec<Room> {
        // A container may see its own group at the top of the mount, under the host's path.
        let below = path.strip_prefix(&mount.top).unwrap_or(Path::new(""));
        if below.components().any(|part| part == Component::ParentDir) {
            return Vec::new();
        }
        let group = mount.at.join(below.strip_prefix("/").unwrap_or(below));
        let group: PathBuf = group.components().collect();
        let up = group.ancestors().take_while(|at| at.starts_with(&mount.at));
        up.filter_map(|at| self.room_of(at, version)).collect()
    }

    fn room_of(&self, group: &Path, version: &Version) -> Option<Room> {
        let number = |file: &str| -> Option<u64> {
            let text = self.read(group.join(file))?;
            text.trim().parse().ok()
        };
        let limits = version.limits.iter().filter_map(|file| number(file));
        let limit = limits.min().filter(|limit| *limit < NO_LIMIT)?;
        let used = number(version.usage).unwrap_or(0);
        let stat = self.read(group.join("memory.stat")).unwrap_or_default();
        let pages = version.file_pages.iter();
        let file_pages: u64 = pages.filter_map(|name| value_of::<u64>(&stat, name)).sum();
        Some(Room {
            limit: Limit::Group(group.to_owned(), limit),
            left: limit.saturating_sub(used.saturating_sub(file_pages)),
        })
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        fs::read_to_string(self.0.join(path.strip_prefix("/").unwrap_or(path))).ok()
    }
}

/// Where control groups are mounted.
struct Mount {
    /// The group at the top of it.
    top: PathBuf,
    at: PathBuf,
}

/// The number behind a name at the beginning of a line.
fn value_of<N: std::str::FromStr>(text: &str, name: &str) -> Option<N> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    line.next()?.parse().ok()
}

/// The number of KiB behind a name, in octets.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    value_of::<u64>(text, name)?.checked_mul(KIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn system(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn rooms(files: &[(&str, &str)]) -> Vec<(String, u64)> {
        let root = system(files);
        let rooms = System(root.path()).rooms();
        let name = |room: &Room| match &room.limit {
            Limit::Group(group, limit) => format!("{} {}", group.display(), limit / MIB),
            other => format!("{other:?}"),
        };
        rooms
            .iter()
            .map(|room| (name(room), room.left / MIB))
            .collect()
    }

    #[test]
    fn every_group_from_the_own_one_to_the_top_leaves_what_its_limit_says() {
        let found = rooms(&[
            (
                "proc/meminfo",
                "MemTotal: 1048576 kB\nMemAvailable:   524288 kB\n",
            ),
            ("proc/self/cgroup", "0::/system.slice/xdprobe.service\n"),
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            (
                "sys/fs/cgroup/system.slice/xdprobe.service/memory.max",
                "536870912\n",
            ),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/memory.high", "268435456\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "104857600\n"),
            (
                "sys/fs/cgroup/system.slice/memory.stat",
                "anon 7\ninactive_file 31457280\nactive_file 10485760\n",
            ),
        ]);
        let slice = "/sys/fs/cgroup/system.slice 256".to_owned();
        let service = "/sys/fs/cgroup/system.slice/xdprobe.service 512".to_owned();
        let host = "Host".to_owned();
        assert_eq!(found, [(host, 512), (service, 512), (slice, 256 - 60)]);
    }

    #[test]
    fn groups_of_version_1_are_read_too_also_beside_those_of_version_2() {
        let found = rooms(&[
            ("proc/self/cgroup", "4:cpu,memory:/a/b\n1:cpu:/x\n0::/\n"),
            (
                "proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            (
                "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "104857600\n",
            ),
            (
                "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes",
                "41943040\n",
            ),
            (
                "sys/fs/cgroup/memory/a/b/memory.stat",
                "total_inactive_file 0\n",
            ),
            (
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(found, [("/sys/fs/cgroup/memory/a/b 100".to_owned(), 60)]);
    }

    #[test]
    fn a_container_that_sees_its_group_at_the_top_of_the_mount_finds_its_limit() {
        let found = rooms(&[
            ("proc/self/cgroup", "4:memory:/docker/0123\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup memory\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "104857600\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"),
        ]);
        assert_eq!(found, [("/sys/fs/cgroup/memory 100".to_owned(), 100)]);
    }

    #[test]
    fn what_cannot_be_read_limits_nothing() {
        assert_eq!(rooms(&[("proc/self/cgroup", "0::/\n")]), []);
        let root = system(&[]);
        assert_eq!(System(root.path()).huge_pages(), 0);
    }

    #[test]
    fn limits_of_the_process_and_huge_pages_are_read() {
        let root = system(&[
            (
                "proc/self/limits",
                "Max data size         unlimited     unlimited   bytes\n\
                 Max address space     104857600     unlimited   bytes\n",
            ),
            ("proc/self/status", "Name:\txdprobe\nVmSize:\t   10240 kB\n"),
            (
                "proc/meminfo",
                "HugePages_Free:       8\nHugepagesize:       2048 kB\n",
            ),
        ]);
        let room = Room {
            limit: Limit::Process("ulimit -v", 100 * MIB),
            left: 90 * MIB,
        };
        assert_eq!(System(root.path()).rooms(), [room]);
        assert_eq!(System(root.path()).huge_pages(), 16 * MIB);
    }
}
