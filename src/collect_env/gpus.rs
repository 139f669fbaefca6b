//! GPUs, as far as the driver's files and `nvidia-smi` tell.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Facts,
    machine::{field, read},
};

/// A driver in trouble may hang whoever asks it.
const SMI_WITHIN: Duration = Duration::from_secs(10);
/// GPUs that are listed.
const GPUS_MAX: usize = 64;
/// Bytes of an answer that are read.
const SMI_BYTES_MAX: u64 = 64 << 10;

/// GPUs and their driver.
pub fn gpus(root: &Path) -> Facts {
    let driver = read(root, "proc/driver/nvidia/version").and_then(|text| text.lines().next().map(str::to_owned));
    vec![
        ("nvidia_driver", json!(driver.unwrap_or_else(|| "none".into()))),
        ("nvidia", from_driver(root)),
        ("nvidia_smi", from_smi()),
        ("amd_or_intel", json!(root.join("dev/dri").is_dir())),
    ]
}

/// The driver's own list, which needs no program.
fn from_driver(root: &Path) -> Value {
    let entries = fs::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().flatten();
    let mut gpus: Vec<_> = entries
        .take(GPUS_MAX)
        .filter_map(|entry| {
            let text = read(&entry.path(), "information")?;
            Some(format!("{}: {}", entry.file_name().display(), field(&text, "Model")?))
        })
        .collect();
    gpus.sort();
    json!(gpus)
}

/// What `nvidia-smi` tells; an empty list where there is none.
fn from_smi() -> Value {
    let query = "--query-gpu=index,name,driver_version,memory.total,memory.used,compute_cap";
    let child = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else { return json!([]) };
    match output_within(child, SMI_WITHIN) {
        Some(text) => json!(text.lines().take(GPUS_MAX).map(str::trim).collect::<Vec<_>>()),
        None => json!(format!("nvidia-smi did not answer within {} s", SMI_WITHIN.as_secs())),
    }
}

/// What a program prints, unless it takes too long; then it is ended.
fn output_within(mut child: Child, limit: Duration) -> Option<String> {
    let mut stdout = child.stdout.take()?.take(SMI_BYTES_MAX);
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let deadline = Instant::now() + limit;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    reading.join().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_list_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(from_driver(folder.path()), json!([]));
        let gpu = folder.path().join("proc/driver/nvidia/gpus/0000:01:00.0");
        fs::create_dir_all(&gpu).unwrap();
        fs::write(gpu.join("information"), "Model: \t\t NVIDIA A\nIRQ:   1\n").unwrap();
        assert_eq!(from_driver(folder.path()), json!(["0000:01:00.0: NVIDIA A"]));
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let spawn = |script| Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(output_within(spawn("echo a"), SMI_WITHIN).as_deref(), Some("a\n"));
        assert_eq!(output_within(spawn("exec sleep 600"), Duration::from_millis(50)), None);
    }
}
