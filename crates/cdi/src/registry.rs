//! The directories, and what is found in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::name::MAX_DEVICES;
use crate::spec::Spec;
use crate::{CdiError, DeviceName, Edits};

/// How many files of a directory are read. A node has one a vendor and class.
pub const MAX_FILES: usize = 1024;
/// The longest file that is read.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// How many broken files an error names.
const MAX_NAMED: usize = 4;

/// A file that was read.
struct Found {
    path: PathBuf,
    spec: Spec,
}

/// Looks devices up; what they ask of a container comes back: that of each file once, then
/// that of each device, in the order of the names. The same device twice counts once.
///
/// # Errors
/// A device is not defined, or by two files of one directory; the error says so and names the
/// files that could not be read.
pub fn resolve(dirs: &[PathBuf], names: &[DeviceName]) -> Result<Vec<Edits>, CdiError> {
    if names.len() > MAX_DEVICES {
        return Err(CdiError::TooMany { count: names.len(), limit: MAX_DEVICES });
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut broken = Vec::new();
    let found: Vec<Vec<Found>> = dirs.iter().map(|dir| read_dir(dir, &mut broken)).collect();
    let (mut files, mut all, mut seen) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for name in names {
        if !seen.insert(name) {
            continue;
        }
        let unknown = || CdiError::Unknown {
            name: name.to_string(),
            dirs: dirs.to_vec(),
            broken: broken.iter().take(MAX_NAMED).cloned().collect(),
        };
        let (file, edits) = look_up(&found, name)?.ok_or_else(unknown)?;
        if files.insert(&file.path) {
            all.push(file.spec.container_edits.clone());
        }
        all.push(edits);
    }
    Ok(all)
}

/// The last directory that defines a device is the one that counts.
fn look_up<'a>(
    found: &'a [Vec<Found>],
    name: &DeviceName,
) -> Result<Option<(&'a Found, Edits)>, CdiError> {
    for files in found.iter().rev() {
        let mut defining =
            files.iter().filter(|file| file.spec.kind == name.kind).filter_map(|file| {
                let device = file.spec.devices.iter().find(|d| d.name == name.device)?;
                Some((file, device.container_edits.clone()))
            });
        match (defining.next(), defining.next()) {
            (None, _) => {}
            (Some(one), None) => return Ok(Some(one)),
            (Some((first, _)), Some((second, _))) => {
                return Err(CdiError::Conflict {
                    name: name.to_string(),
                    first: first.path.clone(),
                    second: second.path.clone(),
                });
            }
        }
    }
    Ok(None)
}

/// Reads the files of a directory; one that is not there has none.
fn read_dir(dir: &Path, broken: &mut Vec<String>) -> Vec<Found> {
    let mut paths = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_json = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => true,
            Some("yaml") => false,
            _ => continue,
        };
        paths.insert(path, is_json);
        if paths.len() > MAX_FILES {
            broken.push(format!("{} has more than {MAX_FILES} files", dir.display()));
            break;
        }
    }
    let mut found = Vec::new();
    for (path, is_json) in paths {
        match read_file(&path).and_then(|text| Spec::parse(&text, is_json)) {
            Ok(spec) => found.push(Found { path, spec }),
            Err(why) => broken.push(format!("{} cannot be used: {why}", path.display())),
        }
    }
    found
}

fn read_file(path: &Path) -> Result<String, String> {
    // A FIFO with a file's name must not hold anybody up.
    const O_NONBLOCK: i32 = 0o4000;
    let file = File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = r#"{"cdiVersion":"0.6.0","kind":"v.io/card","containerEdits":{"env":["ALL=1"]},
        "devices":[{"name":"a","containerEdits":{"env":["A=1"],"deviceNodes":[{"path":"/dev/a"}]}},
                   {"name":"b","containerEdits":{"env":["B=1"]}}]}"#;
    const YAML: &str = "cdiVersion: \"1.0.0\"\nkind: w.io/net\ndevices:\n  - name: \"0\"\n    containerEdits:\n      additionalGIDs: [44]\n      mounts:\n        - {hostPath: /h, containerPath: /c, options: [ro, bind]}\n      hooks:\n        - {hookName: createContainer, path: /bin/hook, args: [hook, x], timeout: 5}\n";

    fn names(texts: &[&str]) -> Vec<DeviceName> {
        texts.iter().map(|text| text.parse().expect("a name")).collect()
    }

    fn env(edits: &[Edits]) -> Vec<String> {
        edits.iter().flat_map(|edits| edits.env.clone()).collect()
    }

    #[test]
    fn a_files_own_edits_come_once_and_first() {
        let dir = tempfile::tempdir().expect("made");
        fs::write(dir.path().join("card.json"), CARD).expect("written");
        let dirs = [dir.path().to_owned()];
        let edits = resolve(&dirs, &names(&["v.io/card=b", "v.io/card=a", "v.io/card=b"]));
        assert_eq!(env(&edits.expect("found")), ["ALL=1", "B=1", "A=1"]);
    }

    #[test]
    fn yaml_is_read_whole() {
        let dir = tempfile::tempdir().expect("made");
        fs::write(dir.path().join("net.yaml"), YAML).expect("written");
        let edits = resolve(&[dir.path().to_owned()], &names(&["w.io/net=0"])).expect("found");
        assert_eq!(edits[1].additional_gids, [44]);
        assert_eq!(edits[1].mounts[0].options, ["ro", "bind"]);
        assert_eq!((edits[1].hooks[0].timeout, edits[1].hooks[0].args.len()), (Some(5), 2));
    }

    #[test]
    fn what_was_just_written_counts_and_the_later_directory_wins() {
        let (etc, run) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let dirs = [etc.path().to_owned(), run.path().to_owned(), "/no/such/dir".into()];
        let asked = names(&["v.io/card=a"]);
        let error = resolve(&dirs, &asked).expect_err("nobody has it").to_string();
        assert!(error.contains("v.io/card=a") && error.contains("/no/such/dir"), "{error}");
        fs::write(etc.path().join("card.json"), CARD).expect("written");
        assert_eq!(env(&resolve(&dirs, &asked).expect("found")), ["ALL=1", "A=1"]);
        let other = CARD.replace("A=1", "A=2");
        fs::write(run.path().join("card.json"), &other).expect("written");
        assert_eq!(env(&resolve(&dirs, &asked).expect("found")), ["ALL=1", "A=2"]);
        fs::write(run.path().join("again.json"), other).expect("written");
        let error = resolve(&dirs, &asked).expect_err("two").to_string();
        assert!(error.contains("again.json") && error.contains("card.json"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named_and_keeps_nobody_else_away() {
        let dir = tempfile::tempdir().expect("made");
        let dirs = [dir.path().to_owned()];
        fs::write(dir.path().join("card.json"), CARD).expect("written");
        for (name, text) in [
            ("a.json", "{"),
            ("b.yaml", "kind: ["),
            ("c.json", r#"{"cdiVersion":"9.0","kind":"v.io/x","devices":[]}"#),
            ("d.json", r#"{"cdiVersion":"0.5.0","kind":"no","devices":[]}"#),
        ] {
            fs::write(dir.path().join(name), text).expect("written");
        }
        fs::create_dir(dir.path().join("dir.json")).expect("made");
        fs::write(dir.path().join("notes.txt"), "{").expect("written");
        resolve(&dirs, &names(&["v.io/card=a"])).expect("found");
        let error = resolve(&dirs, &names(&["v.io/card=z"])).expect_err("unknown").to_string();
        for file in ["a.json", "b.yaml", "c.json", "d.json"] {
            assert!(error.contains(file), "{file}: {error}");
        }
        assert!(!error.contains('\n') && !error.contains("notes.txt"), "{error}");
    }
}
