//! The readers of an image's passwd and group, fuzzed. See `testing::fuzz`.

use testing::fuzz::fuzz;

use super::*;

const GROUPS: &[u8] = b"root:x:0:\napp:x:1001:\naudio:x:29:app,root\nvideo:x:44:root,app\n";
const USERS: &[u8] = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";

/// Images' `USER`s: none, numbers that a file may want to be others, and names.
const IMAGE_USERS: [&str; 6] = ["", "1000", "2147483647:29", "app", "app:audio", "root:app"];

fn as_image(user: &str, passwd: &[u8], group: &[u8]) -> Option<ResolvedUser> {
    let request = UserRequest { supplemental_groups: &[7, 29], ..UserRequest::default() };
    resolve_user(&request, user, Some(passwd), Some(group)).ok()
}

/// What holds whatever the files say.
fn check(user: &str, found: &ResolvedUser) {
    let ResolvedUser { uid, gid, additional_gids, home, username } = found;
    let number = |text: &str| text.parse::<u32>().ok();
    let mut parts = user.split(':');
    let (wanted, wanted_group) = (parts.next().and_then(number), parts.next().and_then(number));
    assert!(wanted.is_none_or(|wanted| wanted == *uid), "{user} has become {uid}");
    assert!(wanted_group.is_none_or(|wanted| wanted == *gid), "{user} has the group {gid}");
    assert!(additional_gids.first() == Some(gid) && additional_gids.len() <= MAX_GROUPS);
    assert!(additional_gids.iter().chain([uid]).all(|id| *id <= MAX_ID));
    assert!(home.starts_with('/') && !home.contains(char::is_control), "{home:?}");
    assert!(!username.contains([':', '\n']), "{username:?}");
}

/// A number stays what it is, a name's ids are in range, and a home directory fits into an
/// environment.
#[test]
fn users_of_images() {
    let seeds = [
        USERS.to_vec(),
        b"# of a comment\n\napp:x:1000:1001:App:/home/app:/bin/sh\nhuge:x:4294967296:0::/:\n"
            .to_vec(),
        b"app:x:2147483648:0::/root:\n1000:x:0:0::/root:\napp:x:-1:-1::/ho\x01me:\n".to_vec(),
    ];
    fuzz("passwd", &seeds, |bytes| {
        for user in IMAGE_USERS {
            if let Some(found) = as_image(user, bytes, GROUPS) {
                check(user, &found);
            }
        }
    });
}

/// Groups are those that the file gives to the name, the image's and the request's, and a
/// request that wants its own alone gets no other.
#[test]
fn groups_of_images() {
    let many: Vec<u8> =
        (0..200).flat_map(|id| format!("g{id}:x:{id}:app\n").into_bytes()).collect();
    let seeds = [GROUPS.to_vec(), b"audio:x:99999999999:app\naudio:x:+5:,app,,\n".to_vec(), many];
    fuzz("group", &seeds, |bytes| {
        for user in IMAGE_USERS {
            if let Some(found) = as_image(user, USERS, bytes) {
                check(user, &found);
            }
        }
        let policy = SupplementalGroupsPolicy::Strict;
        let request =
            UserRequest { supplemental_groups: &[7, 29], policy, ..UserRequest::default() };
        let strict = resolve_user(&request, "app", Some(USERS), Some(bytes)).expect("it is there");
        assert_eq!(strict.additional_gids, [1001, 7, 29]);
    });
}
