//! A file in the cache that still grows, and the checksum of what is there: it gets its name when it is whole and right.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::PathBuf,
};

use sha2::{Digest, Sha256};

use super::{error::HubError, listing::HubFile};

/// What is read at once.
const CHUNK_BYTES: usize = 1 << 18;

/// A content that is not whole yet, with the checksum of what is there.
pub struct Growing {
    path: PathBuf,
    file: File,
    /// How much is there.
    pub bytes: u64,
    hasher: Option<Sha256>,
}

impl Growing {
    /// Opens what an earlier download left. What is there is read once: the checksum is of the whole.
    pub fn open(path: PathBuf, of: &HubFile) -> Result<Self, HubError> {
        let opened = || {
            let mut file = File::options().create(true).read(true).append(true).open(&path)?;
            let mut hasher = of.sha256.is_some().then(Sha256::new);
            let mut bytes = file.metadata()?.len();
            if bytes > of.bytes {
                file.set_len(0)?;
                bytes = 0;
            }
            if let Some(hasher) = hasher.as_mut().filter(|_| bytes > 0) {
                hash(&mut file, hasher)?;
            }
            Ok((file, bytes, hasher))
        };
        let (file, bytes, hasher) = opened().map_err(HubError::cache(&path))?;
        Ok(Self { path, file, bytes, hasher })
    }

    /// What came next.
    pub fn add(&mut self, chunk: &[u8]) -> Result<(), HubError> {
        self.file.write_all(chunk).map_err(HubError::cache(&self.path))?;
        self.bytes += chunk.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
        Ok(())
    }

    /// Begins anew.
    pub fn clear(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::cache(&self.path))?;
        self.bytes = 0;
        self.hasher = self.hasher.as_ref().map(|_| Sha256::new());
        Ok(())
    }

    /// Gives it its name, once it is known to be right and to be on the disk.
    pub fn complete(self, name: PathBuf, of: &HubFile) -> Result<(), HubError> {
        let found: Option<String> =
            self.hasher.map(|hasher| hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        if let (Some(found), Some(expected)) = (found, &of.sha256)
            && found != *expected
        {
            let _ = fs::remove_file(&self.path);
            return Err(HubError::WrongChecksum { file: of.name.clone(), found, expected: expected.clone() });
        }
        self.file.sync_all().and_then(|()| fs::rename(&self.path, &name)).map_err(HubError::cache(name))
    }
}

fn hash(file: &mut File, hasher: &mut Sha256) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            count => hasher.update(&chunk[..count]),
        }
    }
}
