//! One target under libFuzzer, which brings `main`: the target's name comes in `FUZZ_TARGET`.

#![no_main]

use std::sync::LazyLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}; scripts/fuzz knows them"))
});

fuzz_target!(
    init: {
        // What the product catches itself is no crash: the hook that aborts at every panic goes.
        drop(std::panic::take_hook());
        TARGET.warm_up();
    },
    |input: &[u8]| TARGET.run(input)
);
