//! Who a container runs as: the request's user and groups, the image's `USER`, and the
//! image's `/etc/passwd` and `/etc/group`.
//!
//! What must never happen: a user that was asked for by a number becomes another one. A
//! text that looks like a number is one; if it is out of range it is refused, and never
//! looked up as a name (an image's passwd could map it to root). Ids are 0 to 2^31-1.

use types::{ContainerSecurity, SupplementalGroupsPolicy};

use crate::text::shown;

/// The longest `/etc/passwd` or `/etc/group` that is read.
pub const MAX_USER_FILE_BYTES: usize = 10 * 1024 * 1024;
/// `NGROUPS_MAX` of the kernel.
pub const MAX_GROUPS: usize = 65_536;
/// More fields than a line of either file has; the rest of a longer line is one field.
const MAX_FIELDS: usize = 8;
/// The highest id: above it, ids are negative where they are signed.
const MAX_ID: u32 = i32::MAX as u32;

/// Why a user cannot be settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A group was asked for without a user.
    #[error("run_as_group is given without run_as_user or run_as_username")]
    GroupWithoutUser,
    /// A user was asked for in both ways.
    #[error("run_as_user and run_as_username are both given")]
    TwoUsers,
    /// An id that is out of range or not written as one.
    #[error("{what} \"{text}\" is not a number from 0 to 2147483647")]
    Id {
        /// Which id.
        what: &'static str,
        /// What there is, cut and escaped.
        text: String,
    },
    /// A user or group whose name is empty or has characters that no name has.
    #[error("{what} \"{text}\" is not a valid name")]
    Name {
        /// Which name.
        what: &'static str,
        /// What there is, cut and escaped.
        text: String,
    },
    /// A user that the image does not know.
    #[error("user {name} is not in /etc/passwd of the image")]
    NoUser {
        /// The name.
        name: String,
    },
    /// A group that the image does not know.
    #[error("group {name} is not in /etc/group of the image")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// A line for the name that was looked for, with ids that are none.
    #[error("{file} of the image has no valid id for {name}")]
    BadEntry {
        /// Which file.
        file: &'static str,
        /// The name.
        name: String,
    },
    /// A file that is too long.
    #[error("{file} of the image has {length} bytes, more than {limit}")]
    TooLarge {
        /// Which file.
        file: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// More groups than a process can have.
    #[error("{count} supplementary groups are more than {limit}")]
    TooManyGroups {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

/// What a request says of the user.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserRequest<'a> {
    /// A user by number.
    pub run_as_user: Option<i64>,
    /// A user by name, or empty.
    pub run_as_username: &'a str,
    /// A group by number.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: &'a [i64],
    /// How they join those of the image.
    pub policy: SupplementalGroupsPolicy,
}

impl<'a> From<&'a ContainerSecurity> for UserRequest<'a> {
    fn from(security: &'a ContainerSecurity) -> Self {
        Self {
            run_as_user: security.run_as_user,
            run_as_username: &security.run_as_username,
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            policy: security.supplemental_groups_policy,
        }
    }
}

/// Who a container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The user.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// All groups, the first one included.
    pub additional_gids: Vec<u32>,
    /// The home directory, `/` where there is no good one.
    pub home: String,
    /// The name, or empty where the image knows none.
    pub username: String,
}

/// A user or a group, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Principal<'a> {
    Id(u32),
    Name(&'a str),
}

/// Settles who a container runs as. The files are the image's own, `None` where it has
/// none; a user by number needs none.
///
/// # Errors
///
/// The request contradicts itself, an id is out of range, or a name is not known.
pub fn resolve_user(
    request: &UserRequest<'_>,
    image_user: &str,
    passwd: Option<&[u8]>,
    group: Option<&[u8]>,
) -> Result<ResolvedUser, UserError> {
    let passwd = checked(PASSWD, passwd)?;
    let group = checked(GROUP, group)?;
    let (user, wanted_group) = requested(request, image_user)?;
    let entry = passwd_entry(passwd, &user)?;
    let uid = match (&user, &entry) {
        (Principal::Id(uid), _) => *uid,
        (Principal::Name(_), Some(entry)) => entry.uid,
        (Principal::Name(name), None) => return Err(UserError::NoUser { name: shown(name) }),
    };
    let gid = match wanted_group {
        Some(Principal::Id(gid)) => gid,
        Some(Principal::Name(name)) => group_id(group, name)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let username = entry.as_ref().map(|entry| entry.name.clone()).unwrap_or_default();
    let additional_gids = all_groups(request, gid, group, &username)?;
    let home = entry.map(|entry| entry.home).unwrap_or_else(|| "/".to_owned());
    Ok(ResolvedUser { uid, gid, additional_gids, home, username })
}

/// What ImageStatus says of an image's user: its number, or its name.
///
/// An image without a user is root's. A text that is not a good number is given as a name,
/// so that no client takes it for root.
pub fn image_user_for_status(image_user: &str) -> (Option<u32>, Option<String>) {
    let user = image_user.split_once(':').map_or(image_user, |(user, _)| user);
    if image_user.is_empty() {
        return (Some(0), None);
    }
    match principal("user", user) {
        Ok(Principal::Id(uid)) => (Some(uid), None),
        Ok(Principal::Name(_)) => (None, Some(user.to_owned())),
        Err(_) => (None, Some(image_user.to_owned())),
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// The user and, if one is named, the group.
type Requested<'a> = (Principal<'a>, Option<Principal<'a>>);

fn requested<'a>(
    request: &UserRequest<'a>,
    image_user: &'a str,
) -> Result<Requested<'a>, UserError> {
    let group = request.run_as_group.map(|gid| id("run_as_group", gid)).transpose()?;
    let group = group.map(Principal::Id);
    match (request.run_as_user, request.run_as_username) {
        (Some(_), name) if !name.is_empty() => Err(UserError::TwoUsers),
        (Some(uid), _) => Ok((Principal::Id(id("run_as_user", uid)?), group)),
        (None, "") if group.is_some() => Err(UserError::GroupWithoutUser),
        (None, "") => image_principals(image_user),
        (None, name) => Ok((principal("run_as_username", name)?, group)),
    }
}

/// Takes an image's `USER` apart: nothing, a user, or a user and a group.
fn image_principals(image_user: &str) -> Result<Requested<'_>, UserError> {
    if image_user.is_empty() {
        return Ok((Principal::Id(0), None));
    }
    match image_user.split_once(':') {
        None => Ok((principal("user of the image", image_user)?, None)),
        Some((user, group)) => Ok((
            principal("user of the image", user)?,
            Some(principal("group of the image", group)?),
        )),
    }
}

/// Tells a number from a name. What begins as a number does must be one.
fn principal<'a>(what: &'static str, text: &'a str) -> Result<Principal<'a>, UserError> {
    let looks_numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    if looks_numeric {
        let number = text.parse::<u32>().ok().filter(|id| *id <= MAX_ID);
        // "00" and "+0" parse and are not how a number is written.
        let number = number.filter(|id| id.to_string() == text);
        return number.map(Principal::Id).ok_or_else(|| UserError::Id { what, text: shown(text) });
    }
    let bad = |c: char| c == ':' || c.is_control() || c.is_whitespace();
    if text.is_empty() || text.contains(bad) {
        return Err(UserError::Name { what, text: shown(text) });
    }
    Ok(Principal::Name(text))
}

fn id(what: &'static str, value: i64) -> Result<u32, UserError> {
    let id = u32::try_from(value).ok().filter(|id| *id <= MAX_ID);
    id.ok_or_else(|| UserError::Id { what, text: value.to_string() })
}

fn checked<'a>(file: &'static str, bytes: Option<&'a [u8]>) -> Result<&'a [u8], UserError> {
    let bytes = bytes.unwrap_or_default();
    if bytes.len() > MAX_USER_FILE_BYTES {
        let (length, limit) = (bytes.len(), MAX_USER_FILE_BYTES);
        return Err(UserError::TooLarge { file, length, limit });
    }
    Ok(bytes)
}

/// A line of passwd(5).
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The first line that fits. A line for the name that was asked for must have good ids;
/// other lines that are not good are passed over.
fn passwd_entry(passwd: &[u8], user: &Principal<'_>) -> Result<Option<PasswdEntry>, UserError> {
    for fields in lines(passwd) {
        let (Some(&name), uid, gid) = (fields.first(), field_id(&fields, 2), field_id(&fields, 3))
        else {
            continue;
        };
        let fits = match user {
            Principal::Id(wanted) => uid == Some(*wanted) && gid.is_some(),
            Principal::Name(wanted) => name == wanted.as_bytes(),
        };
        if !fits {
            continue;
        }
        let (Some(uid), Some(gid)) = (uid, gid) else {
            let name = shown(&String::from_utf8_lossy(name));
            return Err(UserError::BadEntry { file: PASSWD, name });
        };
        let name = String::from_utf8_lossy(name).into_owned();
        return Ok(Some(PasswdEntry { name, uid, gid, home: home(fields.get(5).copied()) }));
    }
    Ok(None)
}

/// A home directory that can be put into an environment.
fn home(field: Option<&[u8]>) -> String {
    field
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .filter(|home| home.starts_with('/') && !home.contains(char::is_control))
        .unwrap_or("/")
        .to_owned()
}

fn group_id(group: &[u8], wanted: &str) -> Result<u32, UserError> {
    let fields = lines(group).find(|fields| fields.first() == Some(&wanted.as_bytes()));
    let fields = fields.ok_or_else(|| UserError::NoGroup { name: shown(wanted) })?;
    field_id(&fields, 2).ok_or_else(|| UserError::BadEntry { file: GROUP, name: shown(wanted) })
}

/// All groups: the first one, those of the image unless the request's alone are wanted,
/// and the request's. The first one is in the list, as otherwise files that are closed to
/// it would be open.
fn all_groups(
    request: &UserRequest<'_>,
    gid: u32,
    group: &[u8],
    username: &str,
) -> Result<Vec<u32>, UserError> {
    let mut all = vec![gid];
    if request.policy == SupplementalGroupsPolicy::Merge && !username.is_empty() {
        let member = |fields: &Vec<&[u8]>| {
            let members = fields.get(3).copied().unwrap_or_default();
            members.split(|b| *b == b',').any(|name| name == username.as_bytes())
        };
        all.extend(lines(group).filter(member).filter_map(|fields| field_id(&fields, 2)));
    }
    for gid in request.supplemental_groups {
        all.push(id("supplemental group", *gid)?);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    if all.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups { count: all.len(), limit: MAX_GROUPS });
    }
    Ok(all)
}

/// The lines of a file of fields between colons, without comments.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    bytes
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.splitn(MAX_FIELDS, |b| *b == b':').collect())
}

fn field_id(fields: &[&[u8]], at: usize) -> Option<u32> {
    let text = std::str::from_utf8(fields.get(at)?).ok()?;
    // parse() takes a sign, an id has none.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>().ok().filter(|id| digits && *id <= MAX_ID)
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
