//! `scripts/launch_8gpu.sh`: what it makes of machines with GPUs, told by a stand-in for `nvidia-smi`, and without.
//!
//! The script runs with a `PATH` of this test's making, so that what the machine has really does not matter; all but
//! the last two tests are dry runs.

mod server;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use server::{golden, wait_for};

/// All that the script calls.
const TOOLS: [&str; 16] = [
    "awk", "bash", "cat", "df", "dirname", "env", "grep", "head", "nproc", "paste", "sed", "sort", "tail", "timeout",
    "tr", "uname",
];

/// Answers out of the files beside it.
const NVIDIA_SMI: &str = r#"#!/usr/bin/env bash
here=${BASH_SOURCE[0]%/*}
case "$*" in
    *--query-gpu=*) cat "$here/gpus" ;;
    *--query-compute-apps=*) cat "$here/users" ;;
    "topo -m") cat "$here/topology" ;;
    -q) cat "$here/details" ;;
    *) echo "Invalid combination of input arguments"; exit 2 ;;
esac
"#;

/// A machine as its tools tell of it.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// Without GPUs.
    fn plain() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tools = folder.path().join("bin");
        fs::create_dir(&tools).expect("a folder");
        for tool in TOOLS {
            symlink(found(tool), tools.join(tool)).expect("a link");
        }
        Self { folder }
    }

    /// With so many H100s, all well and idle, joined by NVLink, half of them at each of two processors.
    fn with_gpus(count: usize) -> Self {
        let machine = Self::plain();
        let gpu = |index| {
            format!(
                "550.54.15, {index}, GPU-{index}aaa, NVIDIA H100 80GB HBM3, 81559, 4, Enabled, Disabled, Default, 0\n"
            )
        };
        machine.program("nvidia-smi", NVIDIA_SMI);
        machine.tells("gpus", &(0..count).map(gpu).collect::<String>());
        machine.tells("users", "");
        machine.tells("topology", &topology(count, "NV18"));
        machine.tells("details", "    Fabric\n        State                             : Completed\n");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, text).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
    }

    /// What `nvidia-smi` answers.
    fn tells(&self, what: &str, text: &str) {
        fs::write(self.path("bin").join(what), text).expect("a file");
    }

    /// The same with `from` replaced by `to`.
    fn tells_otherwise(self, what: &str, from: &str, to: &str) -> Self {
        let text = fs::read_to_string(self.path("bin").join(what)).expect("it is told");
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.tells(what, &text.replace(from, to));
        self
    }

    fn command(&self, variables: &[(&str, &str)], flags: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/bash"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/launch_8gpu.sh")).args(flags);
        let ours = |name: &str| {
            ["CUDA_", "NCCL_", "HF_"].iter().any(|prefix| name.starts_with(prefix))
                || ["GPUS", "DEVICE", "HOST", "PORT", "FORCE"].contains(&name)
        };
        for name in env::vars().map(|(name, _)| name).filter(|name| ours(name)) {
            command.env_remove(name);
        }
        command.env("PATH", self.path("bin")).env("LAUNCH_ROOT", self.path("root")).env("PORT", "0");
        command.env("SHARDWIRE", env!("CARGO_BIN_EXE_shardwire")).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A dry run: exit code, command, lines.
    fn dry_run(&self, variables: &[(&str, &str)], flags: &[&str]) -> (i32, String, String) {
        let output = self.command(variables, &[&["--dry-run"], flags].concat()).output().expect("the script runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Goes on, says all this, and would run a command with all that.
    fn check_goes(&self, variables: &[(&str, &str)], flags: &[&str], says: &[&str], runs: &[&str]) {
        let (code, command, lines) = self.dry_run(variables, flags);
        assert_eq!(code, 0, "{variables:?} {flags:?}\n{lines}");
        says.iter().for_each(|part| assert!(lines.contains(part), "no {part:?} in\n{lines}"));
        runs.iter().for_each(|part| assert!(command.contains(part), "no {part:?} in\n{command}"));
    }

    /// Ends with code 2, the last line saying this.
    fn check_ends(&self, variables: &[(&str, &str)], flags: &[&str], says: &[&str]) {
        let (code, command, lines) = self.dry_run(variables, flags);
        let last = lines.lines().last().unwrap_or_default();
        assert_eq!((code, command.as_str()), (2, ""), "{variables:?} {flags:?}\n{lines}");
        says.iter().for_each(|part| assert!(last.contains(part), "no {part:?} in {last:?}"));
    }
}

fn found(tool: &str) -> PathBuf {
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut paths = env::split_paths(&folders).map(|folder| folder.join(tool));
    paths.find(|path| path.is_file()).unwrap_or_else(|| panic!("{tool} is not on this machine"))
}

/// As `nvidia-smi topo -m` prints it, with a network card beside the GPUs.
fn topology(count: usize, link: &str) -> String {
    let names = (0..count).map(|index| format!("GPU{index}\t")).collect::<String>();
    let mut text = format!("\t\u{1b}[4m{names}NIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\u{1b}[0m\n");
    for row in 0..count {
        let links: String = (0..count).map(|column| if row == column { " X \t" } else { "LINK\t" }).collect();
        let node = usize::from(row * 2 >= count);
        let _ = writeln!(text, "GPU{row}\t{}PIX\t0-47\t{node}\t\tN/A", links.replace("LINK", link));
    }
    text + "NIC0\tPIX\tPIX\t X \t\t\t\t\n\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing # NVLinks\n"
}

/// A model of 70 billion weights, as far as its shape goes.
fn large_model(folder: &Path) -> String {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "torch_dtype": "bfloat16",
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    folder.to_str().expect("UTF-8 path").to_owned()
}

#[test]
fn eight_idle_gpus_are_served_on() {
    let machine = Machine::with_gpus(8);
    let model = golden("models/llama3_rope");
    let says = [
        "driver 550.54.15",
        "GPUs 0 1 2 3 4 5 6 7: NVIDIA H100 80GB HBM3, 81559 MiB each",
        "GPUs are joined by NVLink (NV18)",
        "NUMA: GPUs 0 1 2 3 at node 0, GPUs 4 5 6 7 at node 1",
        "NCCL_DEBUG=WARN",
        "the model's files: ",
        "of weights, room for the keys and values of ",
        "8 ranks on cuda, listening at 0.0.0.0:0",
    ];
    let runs = [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID NCCL_DEBUG=WARN ",
        "shardwire serve --model ",
        " --tensor-parallel-size 8 --device cuda --host 0.0.0.0 --port 0\n",
    ];
    machine.check_goes(&[], &["--model", model.to_str().expect("UTF-8 path")], &says, &runs);
    let (_, command, _) = machine.dry_run(&[], &[]);
    assert!(!command.contains("CUDA_VISIBLE_DEVICES"), "all are wanted: {command}");
}

#[test]
fn the_user_s_word_counts() {
    let machine = Machine::with_gpus(8);
    let flags = ["--tensor_parallel_size=2", "--device", "cuda", "--port=0", "--host", "127.0.0.1"];
    let runs = ["serve --tensor-parallel-size=2 --device cuda --port=0 --host 127.0.0.1\n"];
    machine.check_goes(&[("GPUS", "4")], &flags, &["GPUs 0 1: ", "2 ranks on cuda, listening at 127.0.0.1:0"], &runs);
    let variables = [("CUDA_VISIBLE_DEVICES", "5,GPU-3a,1"), ("GPUS", "2"), ("NCCL_DEBUG", "INFO")];
    let (_, command, lines) = machine.dry_run(&variables, &[]);
    assert!(lines.contains("GPUs 5 3: ") && lines.contains("NCCL_DEBUG=INFO"), "{lines}");
    assert!(!command.contains("NCCL_DEBUG") && !command.contains("VISIBLE"), "{command}");
    machine.check_ends(&[("GPUS", "many")], &[], &["GPUS=many: it must be a number"]);
    machine.check_ends(&[("DEVICE", "tpu")], &[], &["DEVICE=tpu: it must be cuda, cpu or auto"]);
    machine.check_ends(&[("CUDA_VISIBLE_DEVICES", "0,9")], &[], &["names GPU 9, and there is none such"]);
}

#[test]
fn gpus_that_are_missing_or_taken_are_told() {
    let four = Machine::with_gpus(4);
    four.check_ends(&[], &[], &["8 ranks want 8 GPUs, and 4 are visible; GPUS=4, or DEVICE=cpu"]);
    four.check_goes(&[("GPUS", "4")], &[], &["GPUs 0 1 2 3: "], &["--tensor-parallel-size 4"]);
    let visible = [("CUDA_VISIBLE_DEVICES", "0,1,2")];
    four.check_ends(&visible, &[], &["and 3 are visible; GPUS=3, or DEVICE=cpu"]);

    let busy = Machine::with_gpus(8);
    busy.tells("users", "GPU-1aaa, 4711, python3, 70000\n");
    busy.check_ends(&[], &[], &["GPU 1 is in use: process 4711 (python3, 70000 MiB)", "FORCE=1"]);
    busy.check_goes(&[("FORCE", "1")], &[], &["warning: GPU 1 is in use"], &["--device cuda"]);
    let runs = [r"CUDA_VISIBLE_DEVICES=0\,2\,3\,4 "];
    busy.check_goes(&[("GPUS", "4")], &[], &["GPUs 0 2 3 4: "], &runs);

    // Its process is in another container.
    let taken = Machine::with_gpus(8).tells_otherwise(
        "gpus",
        "7aaa, NVIDIA H100 80GB HBM3, 81559, 4,",
        "7aaa, NVIDIA H100 80GB HBM3, 81559, 60000,",
    );
    taken.check_ends(&[], &[], &["GPU 7 is in use: 60000 MiB of its memory are taken"]);
}

#[test]
fn gpus_that_will_not_do_are_refused() {
    let check =
        |what, from, to, says| Machine::with_gpus(8).tells_otherwise(what, from, to).check_ends(&[], &[], &[says]);
    check("gpus", "550.54.15", "535.161.08", "the driver has version 535.161.08; 550 is the least");
    check(
        "gpus",
        "3, GPU-3aaa, NVIDIA H100",
        "3, GPU-3aaa, NVIDIA A100",
        "GPU 0 is a NVIDIA H100 80GB HBM3, GPU 3 a NVIDIA A100",
    );
    check("gpus", "Enabled, Disabled", "Enabled, Enabled", "GPU 0 is divided (MIG)");
    check("gpus", "Default", "Prohibited", "GPU 0 is closed to work");
    check("details", "Completed", "In Progress", "the NVSwitch fabric is not up (In Progress)");
    let broken = Machine::with_gpus(8);
    broken.program(
        "nvidia-smi",
        "#!/usr/bin/env bash\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
    );
    broken.check_ends(&[], &[], &["nvidia-smi fails: Failed to initialize NVML: Driver/library version mismatch"]);
    Machine::plain().check_ends(&[("DEVICE", "cuda")], &[], &["there is no NVIDIA driver"]);
}

#[test]
fn gpus_that_will_do_badly_are_warned_of() {
    let check = |machine: &Machine, says| machine.check_goes(&[], &[], &[says], &["--device cuda"]);
    let machine = |what, from, to| Machine::with_gpus(8).tells_otherwise(what, from, to);
    let untold = machine("gpus", "81559", "[N/A]");
    untold.tells("topology", "");
    check(&untold, "warning: nvidia-smi topo -m does not say how the GPUs are joined");
    check(&machine("topology", "NV18", "SYS"), "warning: no NVLink: each layer's all-reduce goes over PCIe (SYS;");
    let pairs = machine("topology", "GPU1\tNV18\t X \tNV18", "GPU1\tNV18\t X \tPHB");
    check(&pairs, "warning: NVLink joins only 27 of 28 pairs of GPUs (NV18 PHB)");
    check(&machine("gpus", "Enabled, Disabled", "Disabled, Disabled"), "warning: persistence mode is off");
    let ecc = machine(
        "gpus",
        "2, GPU-2aaa, NVIDIA H100 80GB HBM3, 81559, 4, Enabled, Disabled, Default, 0",
        "2, GPU-2aaa, NVIDIA H100 80GB HBM3, 81559, 4, Enabled, Disabled, Default, 3",
    );
    check(&ecc, "warning: GPU 2 had 3 memory errors");
    let xid = Machine::with_gpus(8);
    xid.program(
        "dmesg",
        "#!/usr/bin/env bash\necho '[1.0] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.'",
    );
    check(&xid, "the kernel's log has errors of GPUs, the last one: [1.0] NVRM: Xid (PCI:0000:3b:00): 79");
    let one = Machine::with_gpus(1);
    one.check_goes(&[("GPUS", "1")], &[], &["NUMA: GPUs 0 at node 0"], &["--tensor-parallel-size 1"]);
}

#[test]
fn a_driver_without_nvidia_smi_is_enough() {
    let machine = Machine::plain();
    let driver = machine.path("root/proc/driver/nvidia");
    for index in 0..8 {
        let folder = driver.join(format!("gpus/0000:0{index}:00.0"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("information"), "Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-aa\n").expect("a file");
    }
    let version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n";
    fs::write(driver.join("version"), version).expect("a file");
    let says = ["driver 570.86.15", "warning: nvidia-smi is not there", "GPUs 0 1 2 3 4 5 6 7: NVIDIA H100\n"];
    machine.check_goes(&[], &[], &says, &["--device cuda"]);
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_ways_to_make_it_fit() {
    let machine = Machine::with_gpus(8);
    let model = large_model(&machine.path(""));
    let flags = ["--model", &model, "--load_choices", "dummy"];
    machine.check_goes(&[], &flags, &["each GPU: 16.4 GiB of weights"], &["--load-choices dummy"]);
    let says = [
        "each GPU would hold 131.4 GiB of weights and 1.2 GiB of keys and values for one sequence",
        "68.5 GiB may be used; it would with --quantization wint4, or on 2 such GPUs",
    ];
    machine.check_ends(&[("GPUS", "1")], &flags, &says);
    let longest = [&flags[..], &["--max-model-len=131072", "--quantization", "wint8"]].concat();
    machine.check_ends(&[("GPUS", "1")], &longest, &["40.0 GiB of keys and values", "; it would on 2 such GPUs"]);
    let larger = [&flags[..], &["--gpu-memory-utilization", "0.1"]].concat();
    machine.check_ends(
        &[("GPUS", "8")],
        &larger,
        &["4.8 GiB may be used; it would with --quantization wint4, or on 32 such GPUs"],
    );
    machine.check_goes(&[("GPUS", "1"), ("FORCE", "1")], &flags, &["warning: the model does not fit"], &["serve"]);
    machine.check_ends(&[], &["--model", "/no/such/model"], &["/no/such/model"]);
}

#[test]
fn a_model_of_the_hub_is_not_fetched_by_a_dry_run() {
    let machine = Machine::with_gpus(8);
    let variables = [("HF_HUB_CACHE", machine.folder.path().to_str().expect("UTF-8 path"))];
    let flags = ["--model", "owner/name"];
    machine.check_goes(
        &variables,
        &flags,
        &["the model is not here yet: whether it fits is not checked"],
        &["owner/name"],
    );
}

#[test]
fn a_port_that_is_taken_ends_the_launch() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let says = format!("port {port} is in use already");
    Machine::with_gpus(8).check_ends(&[("PORT", &port)], &[], &[&says]);
    Machine::plain().check_ends(&[], &["--port", &port], &[&says]);
}

#[test]
fn without_gpus_the_processor_serves() {
    let machine = Machine::plain();
    machine.check_goes(&[], &[], &["there is no NVIDIA driver: computing on the processor"], &["--device cpu"]);
    let none = Machine::with_gpus(0);
    none.tells("gpus", "No devices were found\n");
    none.check_goes(&[], &[], &["no GPU is visible: computing on the processor"], &["--device cpu"]);
    let hidden = [("CUDA_VISIBLE_DEVICES", "")];
    Machine::with_gpus(8).check_goes(&hidden, &[], &["no GPU is visible"], &["--device cpu"]);
    // Whatever the GPUs are like.
    Machine::with_gpus(4).check_goes(&[("DEVICE", "cpu")], &[], &["8 ranks on cpu"], &["--device cpu"]);
    assert!(serves(&machine, &[("DEVICE", "cpu"), ("GPUS", "2"), ("HOST", "127.0.0.1")]).contains(", 2 ranks, "));
}

/// Starts the script for real, with a golden model; its ready line, after it was asked to end and has.
fn serves(machine: &Machine, variables: &[(&str, &str)]) -> String {
    let (model, logs) = (golden("models/llama3_rope"), machine.path("log"));
    let flags = ["--model", model.to_str().expect("UTF-8"), "--log-dir", logs.to_str().expect("UTF-8")];
    let mut child = machine.command(variables, &flags).stderr(Stdio::inherit()).spawn().expect("the script runs");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it is read");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it lives");
    let status = wait_for("the server's end", || child.try_wait().expect("the child is ours"));
    assert!(line.starts_with("Shardwire is ready: ") && status.success(), "{line:?}, {status}");
    line
}
