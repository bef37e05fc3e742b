# felhom-agent. `make help` lists the targets.

GO      ?= go
BUILD   := build
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL    := $(GO) tool -modfile=packaging/tools/go.mod
GOTEST  := $(TOOL) gotestsum --format $(if $(CI),pkgname,pkgname-and-test-fails) --
BINS    := felhom-agent felhom-hook felhom-plugin-launch pvesim refhub plugins/pve plugins/dir plugins/hub plugins/nats

felhom-agent_pkg := ./agent/cmd/felhom-agent
felhom-hook_pkg  := ./hookscript/felhom-hook
felhom-plugin-launch_pkg := ./agent/cmd/felhom-plugin-launch
pvesim_pkg       := ./pkg/pve/pvetest/cmd/pvesim
plugins/pve_pkg  := ./plugins/pve
plugins/dir_pkg  := ./plugins/dir
plugins/hub_pkg  := ./plugins/hub
plugins/nats_pkg := ./plugins/nats
refhub_pkg       := ./plugins/hub/cmd/refhub

.DEFAULT_GOAL := help
.PHONY: help build test unit fleet replay hooks property mutants roundtrip torture chaos demo lint fuzz bench microbench proto programs man deb package-test clean $(BINS)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(BINS) ## build every program into build/, static
$(BINS):
	@mkdir -p $(dir $(BUILD)/$@)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/$@ $($@_pkg)

demo: build ## the main job in one story, against the simulated node (under a minute)
	@packaging/demo/run $(BUILD)

test: ## everything that must hold: vet, all tests with -race, replay, roundtrip, a sample of torture
	packaging/deps
	$(GO) vet ./...
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory property
	$(MAKE) --no-print-directory mutants
	$(MAKE) --no-print-directory replay
	$(MAKE) --no-print-directory hooks
	$(MAKE) --no-print-directory roundtrip
	$(GO) run ./agent/internal/torture/cmd/torture -sim

unit:
	$(GOTEST) -race -timeout 25m ./...

replay: ## replay what real nodes were recorded to answer against the simulator
	$(GO) run ./pkg/pve/pvetest/cmd/replay

hooks: ## replay the recorded rows of the hookscript tables, at the simulator and at the agent
	@mkdir -p $(BUILD)
	@$(GO) test -count=1 -v -run 'TestHookTables$$|TestRecordedHooks' ./pkg/pve/pvetest/hooktable ./agent/internal/hookserver >$(BUILD)/hooks.log 2>&1 || { cat $(BUILD)/hooks.log; exit 1; }
	@grep '^hooks' $(BUILD)/hooks.log

mutants: ## ten behaviours of the simulator changed, one at a time: replay or hook tables notice
	$(GO) test -count=1 -run 'TestRenamed|Notice' ./pkg/pve/pvetest/hooktable ./pkg/pve/pvetest/replay

property: ## random nodes and documents: plan after apply is empty, nothing else is touched
	$(GO) test -count=1 -run TestPlanAfterApplyIsEmpty ./agent/internal/engine

roundtrip: ## recorded config writes: no false drift, every real change seen, the simulator agrees
	@mkdir -p $(BUILD)
	@$(GO) test -count=1 -run 'TestRoundtrip|TestReplay' -v ./pkg/guest ./pkg/pve/pvetest/internal/conf >$(BUILD)/roundtrip.log 2>&1 || { cat $(BUILD)/roundtrip.log; exit 1; }
	@grep -ho 'conf: .* same config' $(BUILD)/roundtrip.log
	@grep -ho 'roundtrip: .*' $(BUILD)/roundtrip.log

torture: build ## break everything that can break, judge what is left (30 minutes; QUICK=1: a sample)
	QUICK=$(QUICK) $(GO) run ./agent/internal/torture/cmd/torture -bin $(BUILD)

chaos: build ## plugins that misbehave in every way, against the real host (root; within ten minutes)
	$(GO) build -o $(BUILD)/chaos ./agent/internal/chaos/cmd/chaos
	$(BUILD)/chaos -bin $(BUILD)

fleet: ## 200 agents and one nats-server on this machine, figures for spread and memory (NODES=n)
	@mkdir -p $(BUILD)
	@$(GO) test -count=1 -v -run TestFleet ./agent/internal/fleet -nodes $(or $(NODES),200) >$(BUILD)/fleet.log 2>&1 || { cat $(BUILD)/fleet.log; exit 1; }
	@grep -o 'fleet: .*' $(BUILD)/fleet.log

lint: ## gofumpt and golangci-lint
	@test -z "$$($(TOOL) gofumpt -l agent pkg plugins hookscript)" || { $(TOOL) gofumpt -l agent pkg plugins hookscript; exit 1; }
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

fuzz: ## each fuzz target for FUZZTIME (default 20s)
	packaging/fuzz $(or $(FUZZTIME),20s)

bench: ## measure what must be fast, each beside a reference, into build/bench.json
	$(GO) run ./agent/internal/torture/cmd/bench -dir $(BUILD)

microbench: ## Go's benchmarks of every package
	$(GO) test -run '^$$' -bench . -benchtime 1s ./agent/... ./pkg/... ./hookscript/...

proto: ## regenerate the protocol's Go code (needs protoc)
	$(GO) generate ./pkg/plugin/...

programs: $(filter-out pvesim refhub,$(BINS))

man: ## the manual pages, into build/man
	@mkdir -p $(BUILD)/man
	@for f in packaging/man/*.md; do p=$${f##*/}; \
		$(TOOL) go-md2man -in $$f -out $(BUILD)/man/$${p%.md} || exit 1; done

deb: ## the Debian package (DEB_ARCH=arm64 for the other architecture), and lintian
	packaging/deb $(BUILD)/deb $(DEB_ARCH)

package-test: ## build the package, then install, boot, upgrade and remove it in Debian 12 and 13 (root)
	packaging/deps package
	packaging/package-test/run $(BUILD)

clean: ## remove what was built
	rm -rf $(BUILD)
