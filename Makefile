.PHONY: run release profile test install check fuzz sbom mutants model bench plots minute screenshots clean

# The gateway in front of a simulated upstream: nothing to configure.
run:
	cargo run --release --locked -- demo

# The program as it is shipped: target/release/tidegate. The profile that leads the compiler is made anew for
# each release: ten minutes of a machine that does nothing else.
release:
	@release/build

profile:
	@release/profile

# Every test; the last line says how many passed and failed.
test: install
	@tests/run

# What the tests need beside Rust, Python and Node.
install:
	@tests/sdk/install

check: .tools/bin/cargo-deny
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items
	PATH="$$PATH:$(CURDIR)/.tools/bin" cargo deny --locked check bans licenses sources
	PATH="$$PATH:$(CURDIR)/.tools/bin" cargo deny --locked --manifest-path fuzz/Cargo.toml check bans licenses sources

.tools/bin/cargo-deny:
	command -v cargo-deny || cargo install --locked --root .tools cargo-deny@0.20.2

# Made-up bytes for everything that reads what comes from outside: ten minutes for each target, and
# what reaches something new is kept.
fuzz:
	fuzz/run --keep

# What the program is made of, as CycloneDX: target/tidegate.cdx.json.
sbom: .tools/bin/cargo-cyclonedx
	PATH="$$PATH:$(CURDIR)/.tools/bin" cargo cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --override-filename tidegate.cdx
	mkdir -p target
	mv tidegate.cdx.json target/

.tools/bin/cargo-cyclonedx:
	command -v cargo-cyclonedx || cargo install --locked --root .tools cargo-cyclonedx@0.5.9

# Breaks the core on purpose: every mistake must be noticed by the tests.
mutants:
	@tests/mutants

# Explores everything that can happen between replicas and the server they share, and what would if
# parts of the protocol were left out.
model:
	cargo run --release --locked --manifest-path models/Cargo.toml

bench:
	cargo bench --locked --bench usage --bench limit --bench metrics --bench scheduler --bench scale --bench store --bench shared --bench gateway

# The plots of docs/LIMITS.md, from simulated runs: the same bytes for the same seed (SIM_SEED).
plots: .tools/plots/installed
	cargo bench --locked --profile dev --bench plots -- .tools/plots/data
	.tools/plots/bin/python docs/plots/plot.py .tools/plots/data docs/plots

# The plot of README.md: a minute of real time with the real thing, with and without it.
minute: .tools/plots/installed
	cargo build --release --locked
	.tools/plots/bin/python docs/plots/minute.py target/release/tidegate docs/images/minute.png

.tools/plots/installed: docs/plots/requirements.txt tests/sdk/python/requirements.txt
	python3 -m venv .tools/plots
	.tools/plots/bin/pip install --quiet $(patsubst %,--requirement %,$^)
	touch $@

# The pictures of the live page in README.md: four minutes of a gateway under load, in a real browser.
screenshots: install
	cargo build --release --locked
	TIDEGATE_BIN=$(CURDIR)/target/release/tidegate node tests/browser/screenshots.js docs/images 240

clean:
	cargo clean
	cargo clean --manifest-path models/Cargo.toml
	rm -rf fuzz/artifacts fuzz/logs
	rm -rf .venv .tools tests/sdk/node/node_modules tests/browser/node_modules
