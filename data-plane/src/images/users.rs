//! Who the code of an image is: names are looked up in the image's own lists.

/// An id of a user and one of a group, and the user's home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User and group.
    pub ids: (u32, u32),
    /// Where `HOME` points.
    pub home: String,
}

/// Reads `name`, `id`, `name:group` or `id:id`, or nothing, which is root.
///
/// # Errors
/// The name that is in neither list.
pub fn find(user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, wanted_group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = line.filter(|fields| fields.len() >= 4).find(|fields| {
        // A number is first of all a number.
        name.parse::<u32>().map_or(fields[0] == name, |_| fields[2] == name)
    });
    let uid = match (&line, name.parse::<u32>()) {
        (_, Ok(_)) => number(name),
        (Some(fields), Err(_)) => number(fields[2]),
        (None, Err(_)) => None,
    };
    let uid = uid.ok_or_else(|| name.to_owned())?;
    let gid = match wanted_group {
        Some(wanted) if !wanted.is_empty() => group_id(wanted, group)?,
        _ => line.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0),
    };
    let home = line.as_ref().and_then(|fields| fields.get(5)).copied();
    let fallback = if uid == 0 { "/root" } else { "/" };
    let home = home.filter(|home| home.starts_with('/')).unwrap_or(fallback);
    Ok(User {
        ids: (uid, gid),
        home: home.to_owned(),
    })
}

fn group_id(wanted: &str, group: &str) -> Result<u32, String> {
    if let Some(id) = number(wanted) {
        return Ok(id);
    }
    let mut lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.len() >= 3 && fields[0] == wanted);
    found
        .and_then(|fields| number(fields[2]))
        .ok_or_else(|| wanted.to_owned())
}

/// An id; the last one means nobody to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:,,,:/home/app:/bin/sh\nbroken\n5:x:77:78::/five:\n";
        let group = "root:x:0:\nweb:x:33:app\n";
        let check = |user: &str, ids: (u32, u32), home: &str| {
            let expect = User {
                ids,
                home: home.to_owned(),
            };
            assert_eq!(find(user, passwd, group), Ok(expect), "{user}");
        };
        check("", (0, 0), "/root");
        check("root", (0, 0), "/root");
        check("app", (1000, 1001), "/home/app");
        check("1000", (1000, 1001), "/home/app");
        check("app:web", (1000, 33), "/home/app");
        check("app:7", (1000, 7), "/home/app");
        check("2000", (2000, 0), "/");
        check("2000:web", (2000, 33), "/");
        check("5", (5, 0), "/");
        assert_eq!(find("nobody", passwd, group), Err("nobody".to_owned()));
        assert!(find("4294967295", passwd, group).is_err() && find("4294967295:0", passwd, group).is_err());
        assert!(find("0:4294967295", passwd, group).is_err());
        assert_eq!(find("app:nogroup", passwd, group), Err("nogroup".to_owned()));
        assert_eq!(
            find("", "", ""),
            Ok(User {
                ids: (0, 0),
                home: "/root".to_owned()
            })
        );
    }
}
