//! What the hub says of a repository: the commit that a branch or tag stands for now, and its files.

use serde::Deserialize;

use super::name::is_commit;

/// Most characters of the name under which a content is kept.
const BLOB_NAME_MAX: usize = 128;

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// Its files.
    pub files: Vec<Listed>,
}

/// A file as the listing has it; not every mirror tells more than the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path in the repository.
    pub name: String,
    /// Size and content.
    pub content: Option<Content>,
}

/// What identifies a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Size.
    pub bytes: u64,
    /// The hub's name for it, which is the file's ETag.
    pub etag: String,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Path in the repository.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Name of the content in the cache.
    pub blob: String,
    /// Checksum, which the hub has of large files (LFS) only.
    pub sha256: Option<String>,
}

impl HubFile {
    /// None where the hub's name for the content can be none in the cache.
    pub fn new(name: &str, content: Content) -> Option<Self> {
        let Content { bytes, etag } = content;
        // A weak ETag and its quotes are HTTP's, not the hub's.
        let blob = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let is_name = blob.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_sha256 = blob.len() == 64 && blob.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sha256 = is_sha256.then(|| blob.to_ascii_lowercase());
        let fine = is_name && (1..=BLOB_NAME_MAX).contains(&blob.len());
        fine.then(|| Self { name: name.to_owned(), bytes, blob, sha256 })
    }
}

/// The hub's JSON, as far as it matters (`/api/models/REPO/revision/REV?blobs=true`).
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads it; the error tells what is wrong. Files whose names lead out of their folder are left out.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let info: ModelInfo = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if !is_commit(&info.sha) {
            return Err(format!("{:?} is no commit", info.sha));
        }
        let files = info.siblings.into_iter().filter(|file| stays_below(&file.rfilename)).map(Sibling::listed);
        Ok(Self { commit: info.sha, files: files.collect() })
    }

    /// The files' names.
    pub fn names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }
}

impl Sibling {
    fn listed(self) -> Listed {
        let large = self.lfs.map(|lfs| Content { bytes: lfs.size, etag: lfs.sha256 });
        let small = || Some(Content { bytes: self.size?, etag: self.blob_id? });
        Listed { name: self.rfilename, content: large.or_else(small) }
    }
}

fn stays_below(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains(['\0', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_and_bad_names_are_left_out() {
        let sha = "a".repeat(64);
        let json = serde_json::json!({"sha": "b".repeat(40), "siblings": [
            {"rfilename": "config.json", "size": 3, "blobId": "c0"},
            {"rfilename": "m.gguf", "size": 9, "blobId": "c1", "lfs": {"sha256": sha, "size": 9, "pointerSize": 1}},
            {"rfilename": "bare"}, {"rfilename": "../x"}, {"rfilename": "/x"}, {"rfilename": "a//b"}, {"rfilename": ""},
        ]});
        let listing = Listing::from_json(json.to_string().as_bytes()).unwrap();
        assert_eq!(listing.names(), ["config.json", "m.gguf", "bare"]);
        let content = |bytes, etag: &str| Some(Content { bytes, etag: etag.into() });
        let contents: Vec<_> = listing.files.into_iter().map(|file| file.content).collect();
        assert_eq!(contents, [content(3, "c0"), content(9, &sha), None]);
        for wrong in ["", "{}", r#"{"sha": "../../x", "siblings": []}"#] {
            assert!(Listing::from_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn etags_become_names_in_the_cache() {
        let check = |etag: &str, blob: Option<&str>, is_sha256: bool| {
            let file = HubFile::new("f", Content { bytes: 1, etag: etag.into() });
            assert_eq!(file.as_ref().map(|file| &*file.blob), blob, "{etag}");
            assert_eq!(file.is_some_and(|file| file.sha256.is_some()), is_sha256, "{etag}");
        };
        check("\"abc1\"", Some("abc1"), false);
        check("W/\"abc-1\"", Some("abc-1"), false);
        check(&"A1".repeat(32), Some(&"A1".repeat(32)), true);
        for wrong in ["", "\"\"", "../x", "a/b", "a.lock", &"a".repeat(129)] {
            check(wrong, None, false);
        }
    }
}
