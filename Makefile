# make run: the server, from a clean clone, on a machine with Rust and Node.
# make test: every test, with what it needs (Debian packages, npm packages) installed first.

.DELETE_ON_ERROR:
.PHONY: run test check fmt bench bench-bridge bench-distance bench-peers bench-again bench-dht bench-tracker bench-tracker-udp bench-table bench-records bench-pins interop fuzz schemathesis

WEB_SOURCES := $(shell find web-demo -type f -not -path '*/node_modules/*' -not -path 'web-demo/dist/*' -not -path 'web-demo/packages/*/dist/*')

run: web-demo/dist/index.html
	cargo build --release
	target/release/swarmgate serve

test: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build
	tests/run

check: web-demo/node_modules/.package-lock.json web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	npm run check --prefix web-demo
	npm run check --prefix tests/e2e

fmt: web-demo/node_modules/.package-lock.json tests/e2e/node_modules/.package-lock.json
	cargo fmt
	npm run fmt --prefix web-demo
	npm run fmt --prefix tests/e2e

bench: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build --release
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/page_open.mjs

# Real messages, damaged, into every parser of the tracker and the bridge, damaged conversations through the bridge's door,
# and random operations on the tracker's table; a minute each or so.
fuzz:
	FUZZ_SEED=$${FUZZ_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --release --test fuzz -- --nocapture
	FUZZ_SEED=$${FUZZ_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --release --lib bridge::door::fuzz -- --nocapture
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} cargo test --release --lib -- tracker::table::tests::model dht::fuzz

# Others' programs for mutable torrents, by which ours is tried both ways.
interop: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	cargo build
	rm -rf target/bench/mutable-torrents && mkdir -p target/bench && cp -r tests/e2e/interop target/bench/mutable-torrents
	npm ci --prefix target/bench/mutable-torrents --ignore-scripts --no-audit --no-fund
	node --test --test-reporter=spec tests/e2e/interop/mutable-torrents.mjs

# The generator, and the trackers beside which ours is measured. Where aquatic_ws cannot be built, it is left out.
bench-tracker: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	cargo build --release
	cargo build --release --manifest-path benches/wtload/Cargo.toml --target-dir target/bench/wtload
	-cargo install aquatic_ws@0.9.0 --root target/bench/cargo --target-dir target/bench/aquatic
	node benches/tracker.mjs

# The bridge beside a hybrid made of WebTorrent in Node, and Chromium alone.
bench-bridge: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build --release
	mkdir -p target/bench && rm -rf target/bench/hybrid && cp -r benches/hybrid target/bench/hybrid
	npm install --prefix target/bench/hybrid --ignore-scripts --no-audit --no-fund --no-package-lock
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/bridge.mjs

# A page far away, on an emulated path between two network namespaces. Needs root; takes an hour, its parts less.
bench-distance: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build --release
	cargo build --release --manifest-path benches/pathemu/Cargo.toml --target-dir target/bench/pathemu
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/distance.mjs

# Five hundred WebRTC peers on the one port.
bench-peers: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build --release
	cargo build --example rtcload
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/peers.mjs

# Fifty transfers in a row of each direction, none of which may get stuck.
bench-again: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	tests/install-tools
	cargo build --release
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/again.mjs

# The generator, and a Pkarr relay as a peer. Where that cannot be built, it is left out.
bench-records: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	cargo build --release
	cargo build --release --manifest-path benches/recordload/Cargo.toml --target-dir target/bench/recordload
	-cargo install pkarr-relay@2.1.0 --features testnet --locked --root target/bench/cargo --target-dir target/bench/pkarr
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/records.mjs

# The same over UDP. Debian's opentracker is unpacked, not installed, where apt is; else it is left out, as aquatic_udp is
# where it cannot be built.
bench-tracker-udp: web-demo/dist/index.html
	cargo build --release
	cargo install aquatic_udp_load_test@0.9.0 --root target/bench/cargo --target-dir target/bench/aquatic
	-cargo install aquatic_udp@0.9.0 --root target/bench/cargo --target-dir target/bench/aquatic
	-mkdir -p target/bench/opentracker && cd target/bench/opentracker && apt-get download opentracker libowfat0 && for deb in *.deb; do dpkg -x $$deb .; done
	node benches/tracker_udp.mjs

# The swarm table by itself: time and instructions of an announce, memory, longest pauses.
bench-table:
	cargo build --release --manifest-path benches/table/Cargo.toml --target-dir target/bench/table
	node benches/table.mjs

# The DHT room alone, compiled from the server's sources: beside the mainline crate, in a network that is half dead, and
# as ten thousand nodes in fake time, which takes some minutes.
bench-dht:
	cargo build --release --manifest-path benches/dht/Cargo.toml --target-dir target/bench/dht
	target/bench/dht/release/dht-bench versus
	target/bench/dht/release/dht-bench half-dead
	target/bench/dht/release/dht-bench scale

# A thousand pinned sites on one server.
bench-pins: web-demo/dist/index.html tests/e2e/node_modules/.package-lock.json
	cargo build --release
	SWARMGATE_BIN=$(CURDIR)/target/release/swarmgate node benches/pins.mjs

# The pin API, held against its description by generated requests.
schemathesis: web-demo/dist/index.html
	cargo build
	tests/schemathesis

# The page is part of the binary, so it is built before it.
web-demo/dist/index.html: web-demo/node_modules/.package-lock.json $(WEB_SOURCES)
	npm run build --prefix web-demo
	touch $@

# npm writes this file last: it is there when everything is.
%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	npm ci --prefix $*
	touch $@
