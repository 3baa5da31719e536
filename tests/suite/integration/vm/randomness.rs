//! Nothing of what makes a machine one of its own is shared by two VMs of one state.

use overlay_pool::vm::{Language, Start, VmSettings};

use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, prints, settings, until_ready, warmed};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// How many pairs of VMs are compared: `OVERLAY_POOL_PAIRS`, or else one, which shows that it is
/// looked at.
fn pairs() -> usize {
    std::env::var("OVERLAY_POOL_PAIRS").map_or(1, |pairs| pairs.parse().expect("a number"))
}

const PYTHON: &str = "
import os, random, secrets, socket, ssl, tempfile, time, uuid
print('urandom', os.urandom(16).hex())
print('uuid1', uuid.uuid1())
print('uuid4', uuid.uuid4())
print('random', random.random())
print('secrets', secrets.token_hex(16))
print('tempfile', tempfile.mktemp())
print('hash seed', hash('seed'))
print('address', id(object()))
print('stack', open('/proc/self/maps').read().split('[stack]')[0].splitlines()[-1].split()[0])
print('ssl', ssl.RAND_bytes(16).hex())
print('boot id', open('/proc/sys/kernel/random/boot_id').read().strip())
print('machine id', open('/etc/machine-id').read().strip())
print('hostname', socket.gethostname())
print('clock', time.time_ns())
";

const JAVASCRIPT: &str = "
const crypto = require('crypto'), fs = require('fs');
const say = (what, value) => console.log(what, value);
say('randomBytes', crypto.randomBytes(16).toString('hex'));
say('randomUUID', crypto.randomUUID());
say('webcrypto', Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'));
const { privateKey } = crypto.generateKeyPairSync('ed25519');
say('key', privateKey.export({ format: 'jwk' }).d);
say('Math.random', Math.random());
say('boot id', fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
say('machine id', fs.readFileSync('/etc/machine-id', 'utf8').trim());
say('hostname', require('os').hostname());
say('clock', process.hrtime.bigint() + ' ' + Date.now());
";

/// VMs that waited, whose interpreters had started before they were asked for.
#[apply(test)]
#[case::python(Language::PYTHON, PYTHON, 14)]
#[case::javascript(Language::JAVASCRIPT, JAVASCRIPT, 9)]
async fn pairs_differ(
    scratch: Scratch,
    #[case] language: Language,
    #[case] code: &str,
    #[case] facts: usize,
) {
    let settings = VmSettings { max_concurrent_vms: 2, ..settings(&scratch) };
    let manager = warmed(settings, language, 2).await;
    let mut seen: Vec<Vec<String>> = Vec::new();
    for pair in 0..pairs() {
        until_ready(&manager, language, 2).await;
        for _ in 0..2 {
            let vm = manager.create_vm(language, "tenant", "task").await.expect("a VM");
            assert_eq!(vm.start(), Some(Start::Warm), "pair {pair}");
            let said: Vec<_> = prints(&vm, code).await.lines().map(str::to_owned).collect();
            assert_eq!(said.len(), facts, "{said:?}");
            // Of all VMs, not only of the two.
            for other in &seen {
                for (one, other) in said.iter().zip(other) {
                    assert_ne!(one, other, "pair {pair}");
                }
            }
            seen.push(said);
            manager.destroy_vm(&vm).await;
        }
    }
    assert_eq!(seen.len(), 2 * pairs());
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}
