//! What a session may do: in one bucket what a plane does there, and nothing elsewhere. Pure.

use serde_json::{Value, json};

/// The policy of a session for that bucket. A role's own policy is narrowed by it, never widened. `region` is one of AWS's; nothing for
/// other services, whose regions mean nothing.
pub fn session_policy(region: Option<&str>, bucket: &str) -> Value {
    let arn = format!("arn:{}:s3:::{bucket}", region.map_or("aws", partition));
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                "Resource": [arn],
            },
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": [format!("{arn}/*")],
            },
        ],
    })
}

/// Which of AWS's separate worlds a region is in: names of resources begin with it.
fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the policy allows it, as its language says: here without conditions or denials.
    fn allows(policy: &Value, action: &str, resource: &str) -> bool {
        let fits = |pattern: &Value, text: &str| match pattern.as_str() {
            Some(pattern) => match pattern.strip_suffix('*') {
                Some(begin) => text.starts_with(begin),
                None => text == pattern,
            },
            None => false,
        };
        let any = |list: &Value, text: &str| list.as_array().is_some_and(|list| list.iter().any(|p| fits(p, text)));
        let statements = policy["Statement"].as_array().unwrap();
        assert!(
            statements
                .iter()
                .all(|s| s["Effect"] == "Allow" && s.as_object().unwrap().len() == 3)
        );
        statements
            .iter()
            .any(|s| any(&s["Action"], action) && any(&s["Resource"], resource))
    }

    #[test]
    fn a_session_may_do_what_a_plane_does_in_its_own_bucket_and_nothing_else() {
        let policy = session_policy(Some("eu-west-1"), "howdah-1");
        for (action, resource, expected) in [
            ("s3:ListBucket", "arn:aws:s3:::howdah-1", true),
            ("s3:GetBucketLocation", "arn:aws:s3:::howdah-1", true),
            ("s3:ListBucketMultipartUploads", "arn:aws:s3:::howdah-1", true),
            ("s3:GetObject", "arn:aws:s3:::howdah-1/packs/a", true),
            ("s3:PutObject", "arn:aws:s3:::howdah-1/packs/a", true),
            ("s3:DeleteObject", "arn:aws:s3:::howdah-1/packs/a", true),
            ("s3:AbortMultipartUpload", "arn:aws:s3:::howdah-1/packs/a", true),
            ("s3:ListMultipartUploadParts", "arn:aws:s3:::howdah-1/packs/a", true),
            // Whose name begins alike.
            ("s3:ListBucket", "arn:aws:s3:::howdah-12", false),
            ("s3:GetObject", "arn:aws:s3:::howdah-12/packs/a", false),
            ("s3:GetObject", "arn:aws:s3:::howdah-2/howdah-1/a", false),
            // What only the administrator does.
            ("s3:DeleteBucket", "arn:aws:s3:::howdah-1", false),
            ("s3:PutBucketPolicy", "arn:aws:s3:::howdah-1", false),
            ("s3:PutLifecycleConfiguration", "arn:aws:s3:::howdah-1", false),
            ("s3:PutObjectAcl", "arn:aws:s3:::howdah-1/packs/a", false),
            ("s3:DeleteObjectVersion", "arn:aws:s3:::howdah-1/packs/a", false),
            ("s3:ListAllMyBuckets", "arn:aws:s3:::*", false),
            ("s3:CreateBucket", "arn:aws:s3:::howdah-3", false),
            ("sts:AssumeRole", "arn:aws:iam::1:role/howdah", false),
        ] {
            assert_eq!(allows(&policy, action, resource), expected, "{action} {resource}");
        }
        // What a session's policy may have at most.
        let longest = session_policy(Some("us-gov-east-1"), &"b".repeat(63));
        assert!(longest.to_string().len() < 2048);
    }

    #[test]
    fn names_begin_with_the_world_that_a_region_is_in() {
        for (region, begin) in [
            ("us-east-1", "arn:aws:s3:::b"),
            ("cn-north-1", "arn:aws-cn:s3:::b"),
            ("us-gov-west-1", "arn:aws-us-gov:s3:::b"),
        ] {
            assert_eq!(session_policy(Some(region), "b")["Statement"][0]["Resource"][0], begin);
        }
    }
}
