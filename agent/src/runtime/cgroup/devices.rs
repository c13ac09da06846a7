//! Which devices the processes of a group of version 2 may open: a small program that the kernel runs at each attempt.
//! Rendering it is pure; version 1 has files for the same.

use super::{CgroupError, DeviceRule};
use crate::runtime::sys::bpf::{self, Instruction};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Fields of the kernel's `bpf_cgroup_dev_ctx`, as offsets: the kind below and the access above 16 bits, and both numbers.
const ACCESS: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
/// `BPF_DEVCG_DEV_CHAR`, and `BPF_DEVCG_ACC_MKNOD`, of linux/bpf.h.
const CHARACTER: i32 = 2;
const MAKE_NODE: i32 = 1;
/// Registers: 0 is the answer, 1 is where the fields are.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WAY: u8 = 3;
const MAJOR_NUMBER: u8 = 4;
const MINOR_NUMBER: u8 = 5;

/// Allows those, and making any node, to the group in `folder` and all below it.
pub(super) fn allow_only(folder: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let attach = || {
        let program = bpf::load_for_devices(&render(rules))?;
        let group = File::open(folder)?;
        bpf::attach_to_group(&program, group.as_fd()).map_err(std::io::Error::from)
    };
    attach().map_err(|source| CgroupError::Devices {
        path: folder.to_owned(),
        source,
    })
}

fn render(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::load(KIND, CONTEXT, ACCESS),
        Instruction::copy(WAY, KIND),
        Instruction::and(KIND, 0xffff),
        Instruction::shift_right(WAY, 16),
        Instruction::load(MAJOR_NUMBER, CONTEXT, MAJOR),
        Instruction::load(MINOR_NUMBER, CONTEXT, MINOR),
        Instruction::skip_unless_equal(WAY, MAKE_NODE, 2),
        Instruction::set(ANSWER, 1),
        Instruction::exit(),
    ];
    for DeviceRule { major, minor } in rules {
        let mut rule = vec![(KIND, CHARACTER), (MAJOR_NUMBER, major.cast_signed())];
        rule.extend(minor.map(|minor| (MINOR_NUMBER, minor.cast_signed())));
        // To what is behind the two instructions that allow.
        let mut rest = i16::try_from(rule.len()).unwrap_or(i16::MAX) + 1;
        for (register, value) in rule {
            program.push(Instruction::skip_unless_equal(register, value, rest));
            rest -= 1;
        }
        program.extend([Instruction::set(ANSWER, 1), Instruction::exit()]);
    }
    program.extend([Instruction::set(ANSWER, 0), Instruction::exit()]);
    program
}
