//! The other process: this very binary again.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use workers::bench::link::EchoConfig;

/// An echo's process. Dropping it ends it.
pub struct Echo(Child);

impl Echo {
    /// Starts it and tells it what to do.
    ///
    /// Must be called on a thread that outlives the echo: the kernel ends it with the thread that started it.
    pub fn start(config: &EchoConfig) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("shardwire").args(["bench", "link-echo"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut echo = Self(command.spawn()?);
        let mut line = serde_json::to_vec(config).expect("an echo's configuration is plain data");
        line.push(b'\n');
        // Its standard input stays open: it leaves when that ends.
        echo.0.stdin.as_mut().expect("piped").write_all(&line)?;
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
