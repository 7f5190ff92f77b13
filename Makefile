# Everything a newcomer needs. `make help` lists it.
.PHONY: help setup build images shim demo test bench soak test-jupyter test-openapi test-images test-manifests test-credentials test-kubernetes scale-kubernetes down

BINARIES := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release
# Tests have homes of their own, so they must be told where PostgreSQL was unpacked, if it was.
WITH_POSTGRES = export PG_BIN_DIR="$${PG_BIN_DIR:-$$(demo/setup where)}";

help: ## lists these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## installs what is missing (PostgreSQL, Python, curl, fuse3)
	@demo/setup

build: ## builds the release binaries
	@echo "building (the first time takes several minutes)"
	@cargo build --release --workspace --locked

images: build shim ## makes container images of both planes, with their bills of materials: no daemon, no root, the same bytes each time
	@images/build --binaries $(BINARIES) --out $(BINARIES)/../images

shim: ## builds the program that runs user code in pods, linked statically, and shows that it is
	@cargo rustc --release --locked -p shim --bin howdah-shim -- -C target-feature=+crt-static
	@if ldd $(BINARIES)/howdah-shim | grep '=>'; then echo "howdah-shim is not static"; exit 1; fi

demo: ## builds, starts the service, plays the satellite challenge, leaves the service running
	@image=$$(demo/setup demo) && $(MAKE) --no-print-directory build && HOWDAH_BINARIES=$(BINARIES) demo/run "$$image"

test: setup ## runs all tests, with what they need
	@$(WITH_POSTGRES) cargo test --workspace --locked

bench: setup build ## prints ratios against floors measured in the same run
	@$(WITH_POSTGRES) cargo bench --workspace --locked --benches
	@$(WITH_POSTGRES) bench/service --binaries $(BINARIES)
	@$(WITH_POSTGRES) bench/scale --binaries $(BINARIES)
	@$(WITH_POSTGRES) bench/pipelines --binaries $(BINARIES)
	@$(WITH_POSTGRES) bench/control --binaries $(BINARIES)

soak: setup build ## kills everything at random while jobs run, and compares what comes out; takes long
	@$(WITH_POSTGRES) soak/chaos --binaries $(BINARIES)
	@$(WITH_POSTGRES) STEPS=300 cargo test --workspace --locked --test it random_graphs -- --nocapture
	@$(WITH_POSTGRES) WORLDS=100 cargo test --workspace --locked --test it two_worlds -- --nocapture
	@SEEDS=10000 cargo test --workspace --locked --test rounds -- --nocapture
	@$(WITH_POSTGRES) HISTORY=500 cargo test --workspace --locked --test e2e histories -- --nocapture
	@SEEDS=10000 cargo test --workspace --locked --test it whatever_goes_wrong_all -- --nocapture

test-jupyter: setup build ## a real JupyterLab as a service, from its installation to a pipeline made of a notebook
	@$(WITH_POSTGRES) demo/jupyter/check --binaries $(BINARIES)

test-openapi: setup build ## schemathesis asks every operation of both planes, and holds the answers against their documents
	@$(WITH_POSTGRES) tests/openapi/check --binaries $(BINARIES)

test-images: build shim ## builds the images twice, compares, looks inside, validates what they say they are made of
	@images/check --binaries $(BINARIES)

test-manifests: ## holds all that we make for Kubernetes against the schemas of the cluster that KUBECONFIG names
	@cargo build --quiet --workspace --locked --example kit-objects --example manifests
	@tests/kubernetes/manifests

test-credentials: ## sessions of buckets at a real object store that checks them (SeaweedFS, built by go): one tenant's opens no other's bucket
	@cargo build --quiet --workspace --locked --example tenant-bucket --example open-store
	@tests/kubernetes/credentials

test-kubernetes: setup build shim ## the whole story on the cluster that KUBECONFIG names; LOAD="kind load image-archive" brings images there
	@$(WITH_POSTGRES) tests/kubernetes/check --binaries $(BINARIES)

scale-kubernetes: setup build ## a thousand organizations on the cluster that KUBECONFIG names, their planes played by kwok
	@$(WITH_POSTGRES) tests/kubernetes/scale --binaries $(BINARIES)

down: ## stops the service
	@$(BINARIES)/howdah down
