use proptest::prelude::*;

use super::*;

const PASSWD_FILE: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
# a comment\n\
app:x:1000:1001:App:/home/app:/bin/sh\n\
\n\
short\n\
huge:x:4294967296:0::/:/bin/sh\n\
negative:x:-1:0::/:/bin/sh\n\
4294967296:x:0:0::/root:/bin/sh\n\
0x0:x:0:0::/root:/bin/sh\n\
relative:x:1002:1002::home:/bin/sh\n\
control:x:1003:1003::/ho\x01me:/bin/sh\n\
other:x:1000:5:::\n";

const GROUP_FILE: &[u8] = b"root:x:0:\n\
app:x:1001:\n\
audio:x:29:app,root\n\
video:x:44:root,app\n\
big:x:99999999999:app\n";

fn resolve(request: &UserRequest<'_>, image: &str) -> Result<ResolvedUser, UserError> {
    resolve_user(request, image, Some(PASSWD_FILE), Some(GROUP_FILE))
}

#[test]
fn the_image_user_in_all_its_forms() {
    for (image, uid, gid, gids, home, name) in [
        ("", 0, 0, vec![0, 29, 44], "/root", "root"),
        ("root", 0, 0, vec![0, 29, 44], "/root", "root"),
        ("app", 1000, 1001, vec![1001, 29, 44], "/home/app", "app"),
        ("1000", 1000, 1001, vec![1001, 29, 44], "/home/app", "app"),
        ("app:audio", 1000, 29, vec![29, 44], "/home/app", "app"),
        ("1000:44", 1000, 44, vec![44, 29], "/home/app", "app"),
        ("1000:audio", 1000, 29, vec![29, 44], "/home/app", "app"),
        ("app:7", 1000, 7, vec![7, 29, 44], "/home/app", "app"),
        ("1234", 1234, 0, vec![0], "/", ""),
        ("2147483647:2147483647", 2_147_483_647, 2_147_483_647, vec![2_147_483_647], "/", ""),
        ("relative", 1002, 1002, vec![1002], "/", "relative"),
        ("control", 1003, 1003, vec![1003], "/", "control"),
    ] {
        let user = resolve(&UserRequest::default(), image).unwrap();
        let wanted = ResolvedUser {
            uid,
            gid,
            additional_gids: gids,
            home: home.to_owned(),
            username: name.to_owned(),
        };
        assert_eq!(user, wanted, "{image}");
    }
}

#[test]
fn bad_image_users_are_refused_and_never_root() {
    for image in [
        "4294967296",
        "2147483648",
        "2147483648:0",
        "-1",
        "+0",
        "00",
        "0x0",
        "1000:",
        ":0",
        ":",
        "0:-1",
        "0:4294967296",
        "app:app:app",
        "nobody-here",
        "app:nogroup",
        "huge",
        "negative",
        "app\nroot",
        "0 ",
        " 0",
        "a b",
        "1e3",
        "99999999999999999999999",
        "app:big",
        "0\0",
    ] {
        assert!(resolve(&UserRequest::default(), image).is_err(), "{image:?}");
    }
}

#[test]
fn the_request_wins_over_the_image() {
    let by_id = UserRequest { run_as_user: Some(1234), ..UserRequest::default() };
    assert_eq!(resolve(&by_id, "app:audio").unwrap().gid, 0);
    let by_name = UserRequest { run_as_username: "app", ..UserRequest::default() };
    assert_eq!(resolve(&by_name, "root").unwrap().uid, 1000);
    let with_group = UserRequest {
        run_as_user: Some(1000),
        run_as_group: Some(2000),
        supplemental_groups: &[3000, 2000],
        ..UserRequest::default()
    };
    assert_eq!(resolve(&with_group, "").unwrap().additional_gids, [2000, 29, 44, 3000]);
    let strict = UserRequest { policy: SupplementalGroupsPolicy::Strict, ..with_group };
    assert_eq!(resolve(&strict, "").unwrap().additional_gids, [2000, 3000]);
}

#[test]
fn bad_requests_are_refused() {
    type Check = fn(&UserError) -> bool;
    let bad: &[(UserRequest<'_>, Check)] = &[
        (UserRequest { run_as_group: Some(1), ..UserRequest::default() }, |e| {
            *e == UserError::GroupWithoutUser
        }),
        (
            UserRequest { run_as_user: Some(0), run_as_username: "app", ..UserRequest::default() },
            |e| *e == UserError::TwoUsers,
        ),
        (UserRequest { run_as_user: Some(-1), ..UserRequest::default() }, |e| {
            matches!(e, UserError::Id { .. })
        }),
        (UserRequest { run_as_user: Some(1 << 31), ..UserRequest::default() }, |e| {
            matches!(e, UserError::Id { .. })
        }),
        (UserRequest { run_as_user: Some(1 << 32), ..UserRequest::default() }, |e| {
            matches!(e, UserError::Id { .. })
        }),
        (UserRequest { run_as_username: "4294967296", ..UserRequest::default() }, |e| {
            matches!(e, UserError::Id { .. })
        }),
        (UserRequest { run_as_username: "app:0", ..UserRequest::default() }, |e| {
            matches!(e, UserError::Name { .. })
        }),
        (UserRequest { supplemental_groups: &[-5], ..UserRequest::default() }, |e| {
            matches!(e, UserError::Id { .. })
        }),
        (UserRequest { run_as_username: "ghost", ..UserRequest::default() }, |e| {
            matches!(e, UserError::NoUser { .. })
        }),
    ];
    for (request, wanted) in bad {
        let error = resolve(request, "").unwrap_err();
        assert!(wanted(&error), "{error:?}");
    }
}

#[test]
fn numbers_need_no_files_and_names_do() {
    let none = UserRequest::default();
    assert_eq!(resolve_user(&none, "1000:1000", None, None).unwrap().home, "/");
    assert!(matches!(resolve_user(&none, "app", None, None), Err(UserError::NoUser { .. })));
    assert!(matches!(resolve_user(&none, "0:app", None, None), Err(UserError::NoGroup { .. })));
    let long = vec![b'x'; MAX_USER_FILE_BYTES + 1];
    let error = resolve_user(&none, "0", Some(&long), None).unwrap_err();
    assert!(matches!(error, UserError::TooLarge { .. }));
}

#[test]
fn what_image_status_says() {
    for (image, uid, name) in [
        ("", Some(0), None),
        ("0", Some(0), None),
        ("1000:audio", Some(1000), None),
        ("app:audio", None, Some("app")),
        ("app", None, Some("app")),
        ("4294967296", None, Some("4294967296")),
        ("-1", None, Some("-1")),
        (":0", None, Some(":0")),
    ] {
        assert_eq!(image_user_for_status(image), (uid, name.map(str::to_owned)), "{image}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_a_number_is_itself(
        image in "\\PC{0,12}|[0-9:+-]{0,12}",
        passwd in prop::collection::vec(any::<u8>(), 0..200),
        group in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let resolved = resolve_user(&UserRequest::default(), &image, Some(&passwd), Some(&group));
        if let (Ok(user), Ok(number)) = (resolved, image.parse::<u64>()) {
            prop_assert_eq!(u64::from(user.uid), number);
            prop_assert_eq!(number.to_string(), image);
        }
    }

    #[test]
    fn only_lines_that_say_so_make_root(
        names in prop::collection::vec(("[a-z]{1,4}", 0_i64..1 << 34, 0_i64..1 << 34), 0..8),
        wanted in "[a-z]{1,4}|[0-9]{1,11}",
    ) {
        let passwd: String =
            names.iter().map(|(name, uid, gid)| format!("{name}:x:{uid}:{gid}::/:\n")).collect();
        let user = resolve_user(&UserRequest::default(), &wanted, Some(passwd.as_bytes()), None);
        if let Ok(user) = user && user.uid == 0 {
            let listed = names.iter().find(|(name, _, _)| *name == wanted);
            prop_assert!(wanted == "0" || listed.is_some_and(|(_, uid, _)| *uid == 0));
        }
    }

    #[test]
    fn the_first_group_is_always_in_the_list(
        uid in 0..=i64::from(i32::MAX),
        gid in 0..=i64::from(i32::MAX),
        more in prop::collection::vec(0..=i64::from(i32::MAX), 0..20),
    ) {
        let request = UserRequest {
            run_as_user: Some(uid),
            run_as_group: Some(gid),
            supplemental_groups: &more,
            ..UserRequest::default()
        };
        let user = resolve_user(&request, "app", None, None).unwrap();
        prop_assert_eq!(i64::from(user.gid), gid);
        prop_assert_eq!(user.additional_gids[0], user.gid);
        prop_assert!(more.iter().all(|gid| user.additional_gids.iter().any(|g| i64::from(*g) == *gid)));
    }
}
