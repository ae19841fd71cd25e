//! Which images must outlive the kubelet's garbage collection. Pure.

use types::ImageId;

use crate::reference::Reference;

/// Patterns of names and ids.
///
/// A name is normalised as those of images are (`busybox` is
/// `docker.io/library/busybox:latest`); one with `*`, which stands for any characters,
/// is taken as it is and compared with the whole normalised name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pins(Vec<String>);

impl Pins {
    pub fn new(patterns: &[String]) -> Self {
        let normal = |name: &String| match name.parse::<Reference>() {
            Ok(reference) if !name.contains('*') && id_of(name).is_none() => reference.to_string(),
            _ => id_of(name).map_or_else(|| name.clone(), |id| id.to_string()),
        };
        Self(patterns.iter().map(normal).collect())
    }

    /// Tells whether a normalised name is meant.
    pub fn fit(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// Tells whether an id is meant.
    pub fn fit_id(&self, id: ImageId) -> bool {
        self.fit(&id.to_string())
    }
}

/// The id that a text is, with or without its algorithm.
fn id_of(text: &str) -> Option<ImageId> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{digits}").parse().ok()
}

/// Compares by going back to the last `*` where the rest does not fit: in linear time for
/// each star, whatever the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, from)) = star {
            (p, t) = (after, from + 1);
            star = Some((after, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_patterns_pin() {
        let hex = "0a".repeat(32);
        for (pattern, name, expected) in [
            ("busybox", "docker.io/library/busybox:latest", true),
            ("busybox", "docker.io/library/busybox:1", false),
            ("busybox:1", "docker.io/library/busybox:1", true),
            ("registry.k8s.io/pause:*", "registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/pause:*", "registry.k8s.io/pauses:3", false),
            ("registry.k8s.io/*", "registry.k8s.io/a/b:1", true),
            ("*/agent:*", "x.io/team/agent:7", true),
            ("*agent*", "x.io/team/reagents:7", true),
            ("*", "anything", true),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbYb", false),
        ] {
            assert_eq!(Pins::new(&[pattern.to_owned()]).fit(name), expected, "{pattern} {name}");
        }
        let id: ImageId = format!("sha256:{hex}").parse().unwrap();
        assert!(
            Pins::new(std::slice::from_ref(&hex)).fit_id(id)
                && Pins::new(&[id.to_string()]).fit_id(id)
        );
        let slow = format!("{}b", "*a".repeat(30));
        assert!(!Pins::new(&[slow]).fit(&"a".repeat(4000)));
    }
}
