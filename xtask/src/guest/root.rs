//! The guest's root: Debian in a disk image, its kernel, and an initrd.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::command::run;

const SUITE: &str = "bookworm";
const PACKAGES: &str = include_str!("../../guest/packages");
const CUSTOMIZE: &str = include_str!("../../guest/customize");
const INIT: &str = include_str!("../../guest/init");
const UNITS: [(&str, &str); 2] = [
    ("corten-guest.target", include_str!("../../guest/corten-guest.target")),
    ("corten-guest.service", include_str!("../../guest/corten-guest.service")),
];
/// The drivers of the disk.
const MODULES: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];
/// Documentation that no test reads.
const LEFT_OUT: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];
/// Sparse: room for what tests write, of which the file on the host holds nothing.
const SIZE: &str = "8G";

/// A root that is there.
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// Builds the root unless the one that is there was made of the same things.
    ///
    /// # Errors
    /// If Debian's archive or a program is missing.
    pub fn ensure(place: &Path) -> Result<Self> {
        fs::create_dir_all(place).with_context(|| format!("failed to make {}", place.display()))?;
        let root = Self { directory: place.join(format!("root-{:016x}", key())) };
        let lock = File::create(place.join("lock")).context("failed to make a lock")?;
        lock.lock().context("failed to wait for another build of the guest")?;
        if !root.directory.exists() {
            remove_others(place)?;
            root.build(&place.join("building"))?;
        }
        Ok(root)
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.directory.join("root.img")
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The initrd.
    pub fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    /// Builds aside, and gives it its name when it is whole.
    fn build(&self, aside: &Path) -> Result<()> {
        println!("building the guest: Debian {SUITE}, about 90 s");
        if aside.exists() {
            fs::remove_dir_all(aside).context("failed to remove an unfinished build")?;
        }
        fs::create_dir_all(aside).context("failed to make a directory")?;
        let tree = aside.join("tree");
        install_debian(aside, &tree)?;
        install_units(&tree)?;
        fs::copy(tree.join("boot/vmlinuz"), aside.join("vmlinuz")).context("there is no kernel")?;
        make_initrd(&tree, aside)?;
        make_disk(&tree, &aside.join("root.img"), SIZE)?;
        fs::remove_dir_all(&tree).context("failed to remove the tree")?;
        fs::rename(aside, &self.directory).context("failed to name the finished root")
    }
}

/// Makes an ext4 image of a directory.
///
/// # Errors
/// If mkfs fails.
pub fn make_disk(tree: &Path, image: &Path, size: &str) -> Result<()> {
    if image.exists() {
        fs::remove_file(image).context("failed to remove an old image")?;
    }
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d"]);
    run(mkfs.stdout(Stdio::null()).arg(tree).arg(image).arg(size))
}

/// What the root is made of, as a number.
fn key() -> u64 {
    let mut hasher = DefaultHasher::new();
    (SUITE, PACKAGES, CUSTOMIZE, INIT, UNITS, MODULES, LEFT_OUT, SIZE).hash(&mut hasher);
    hasher.finish()
}

fn remove_others(place: &Path) -> Result<()> {
    for entry in fs::read_dir(place).context("failed to read the guests")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("root-") {
            fs::remove_dir_all(entry.path()).context("failed to remove an old guest")?;
        }
    }
    Ok(())
}

fn install_debian(aside: &Path, tree: &Path) -> Result<()> {
    let customize = aside.join("customize");
    fs::write(&customize, CUSTOMIZE).context("failed to write a script")?;
    fs::set_permissions(&customize, fs::Permissions::from_mode(0o755))
        .context("failed to make a script executable")?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    mmdebstrap.arg("--aptopt=APT::Install-Recommends \"false\"");
    mmdebstrap.arg("--aptopt=Acquire::Retries \"5\"");
    for path in LEFT_OUT {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    mmdebstrap.arg(format!("--include={}", packages().join(",")));
    mmdebstrap.arg(format!("--customize-hook={} \"$1\"", customize.display()));
    run(mmdebstrap.arg(SUITE).arg(tree))
}

fn packages() -> Vec<&'static str> {
    let lines = PACKAGES.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).collect()
}

fn install_units(tree: &Path) -> Result<()> {
    for (name, text) in UNITS {
        fs::write(tree.join("etc/systemd/system").join(name), text)
            .with_context(|| format!("failed to write {name}"))?;
    }
    Ok(())
}

/// Busybox, the modules and the script, as an archive of form newc.
fn make_initrd(tree: &Path, aside: &Path) -> Result<()> {
    let initrd = aside.join("initrd.d");
    for directory in ["bin", "dev", "modules", "root"] {
        fs::create_dir_all(initrd.join(directory)).context("failed to make a directory")?;
    }
    fs::copy(tree.join("bin/busybox"), initrd.join("bin/busybox"))
        .context("there is no busybox")?;
    for module in MODULES {
        let file = format!("{module}.ko");
        let from = find(&tree.join("usr/lib/modules"), &file)?;
        fs::copy(&from, initrd.join("modules").join(&file))
            .with_context(|| format!("failed to copy {}", from.display()))?;
    }
    let init = initrd.join("init");
    fs::write(&init, INIT).context("failed to write init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .context("failed to make init executable")?;
    let pack = "cd \"$1\" && find . | cpio --create --format=newc --quiet >../initrd";
    run(Command::new("sh").args(["-c", pack, "sh"]).arg(&initrd))?;
    fs::remove_dir_all(&initrd).context("failed to remove the initrd's tree")
}

fn find(directory: &Path, name: &str) -> Result<PathBuf> {
    let output = Command::new("find").arg(directory).args(["-name", name]).output();
    let output = output.context("failed to run find")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    ensure!(!first.is_empty(), "the kernel has no {name}");
    Ok(first.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_names() {
        let packages = packages();
        assert!(packages.contains(&"systemd-sysv") && packages.contains(&"skopeo"));
        let plain =
            |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-+.".contains(c));
        assert!(packages.iter().all(plain), "{packages:?}");
    }

    #[test]
    fn the_initrd_loads_the_modules_that_it_has() {
        let list = INIT.lines().find_map(|line| line.strip_prefix("for module in "));
        assert_eq!(list, Some(format!("{}; do", MODULES.join(" ")).as_str()));
    }
}
