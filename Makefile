# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What can be set on the command line:
PYTHON ?= python3# for the virtual environment
SANDBOX := playbooks/inventory/sandbox.yml
INVENTORY ?= $(SANDBOX)# open-agora: the hosts
ARGS ?=# open-agora, unit, sanity, scenario, benchmark: further arguments of the command
NAME ?= nftables# scenario: which one

VENV := .venv
SCENARIOS := iptables nftables firewalld recording dns_dnsmasq dns_unbound confirm ufw bullseye
SUITES := bullseye bookworm trixie bullseye-ufw bookworm-ufw trixie-ufw
STAGES := lint unit-fast unit-kernel sanity docs package demo images $(addprefix scenario-,$(SCENARIOS)) hosts-stop

# What Debian calls the commands that a sandbox is made of, and what the tools of `make test` need.
SANDBOX_PACKAGES := python3 nftables iptables iproute2 util-linux mount hostname
TEST_PACKAGES = $(SANDBOX_PACKAGES) git file $(shell sed '/^#/d' tests/images/host-packages.txt)

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# sudo keeps neither the path nor what a run of the tests has in its environment.
AS_ROOT = $(SUDO) env PATH="$(PATH)" $(foreach name,SEED SOAK RUN_OF HOST_IMAGE HOST_LANE,TEST_$(name)="$$TEST_$(name)")
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Ansible insists on UTF-8, and not every machine has the locale that its environment names.
export LC_ALL := C.UTF-8

.PHONY: help open-agora sandbox-stop test soak lint format unit unit-fast unit-kernel hosts-stop sanity docs package demo images scenario benchmark \
	readme venv venv-dev system system-dev clean $(addprefix scenario-,$(SCENARIOS))

help: ## Show this list (also without a target)
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

## Use

open-agora: system venv ## Open what the SDKs need, on a throwaway host or on INVENTORY=hosts.yml with ARGS='-e agora_sdks=web'
	ansible-playbook open-agora.yml --inventory $(INVENTORY) --diff --extra-vars agora_prove=true $(ARGS)

sandbox-stop: venv ## End the throwaway hosts
	python plugins/connection/sandbox.py stop

## Check

test: system-dev venv-dev ## Run every check, the fast ones first
	@python tests/tools/stages.py $(STAGES)

soak: system-dev venv-dev ## Every check with no sample left out, before a release; writes docs/soak.md
	@TEST_SOAK=1 python tests/tools/stages.py --record=docs/soak.md $(STAGES)

lint: venv-dev ## Format, types, YAML, Ansible, licences, changelog
	ruff check
	ruff format --check
	mypy
	yamllint --strict .
	ansible-lint
	reuse lint --lines
	antsibull-changelog lint

UNIT = pytest --numprocesses auto --dist worksteal --durations 20

unit: venv-dev ## Unit tests; ARGS='-k ports' chooses
	$(UNIT) $(ARGS)

unit-fast: venv-dev ## Those of them that need no kernel, in less than a minute
	$(UNIT) -m 'not kernel' $(ARGS)

unit-kernel: system-dev venv-dev ## The others: namespaces, real firewall commands, plays on throwaway hosts
	$(UNIT) -m kernel $(ARGS)

sanity: venv-dev ## ansible-test sanity; ARGS='--test pep8' chooses
	python tests/tools/sanity.py $(ARGS)

docs: venv-dev ## What ansible-doc shows is complete
	antsibull-docs lint-collection-docs --plugin-docs --disallow-unknown-collection-refs --validate-collection-refs=self .
	pytest tests/repository/test_docs.py

package: system-dev venv-dev ## Build, install and use the collection without the checkout
	pytest tests/repository/test_package.py

demo: system-dev venv-dev ## The two commands of the quick start, on a fresh throwaway host
	pytest tests/repository/test_demo.py

images: system-dev ## Make the images of the test hosts
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(addprefix image-,$(SUITES))

image-%: system-dev
	$(SUDO) $(PYTHON) tests/images/build $*

scenario: scenario-$(NAME) ## One Molecule scenario: NAME=iptables, nftables, ufw, firewalld, bullseye, dns_dnsmasq, dns_unbound, confirm or recording

$(addprefix scenario-,$(SCENARIOS)): scenario-%: images venv-dev
	$(AS_ROOT) python tests/tools/scenario.py $* $(ARGS)

hosts-stop: venv-dev ## Remove the test hosts that the scenarios keep
	$(AS_ROOT) python tests/tools/hosts.py down

benchmark: image-bookworm image-bookworm-ufw venv-dev ## Time the collection against loops of the usual modules
	python tests/benchmarks/compile.py
	$(AS_ROOT) python tests/benchmarks/scale.py
	$(AS_ROOT) python tests/benchmarks/proof.py
	$(AS_ROOT) python tests/benchmarks/dns.py
	$(AS_ROOT) python tests/benchmarks/apply.py $(ARGS)

## Change

format: venv-dev ## Format the Python files
	ruff check --fix
	ruff format

readme: venv-dev ## Write the generated tables of the READMEs
	python tests/tools/readme.py

## Set up

venv: $(VENV)/.runtime ## The virtual environment with what open-agora needs
venv-dev: $(VENV)/.dev ## The virtual environment with what test needs

system: ## The Debian packages that open-agora needs
	@tests/tools/packages $(SANDBOX_PACKAGES)

system-dev: ## The Debian packages that test needs
	@tests/tools/packages $(TEST_PACKAGES)

clean: ## Remove what the other targets made, test hosts included and their images excepted
	! command -v podman >/dev/null || $(SUDO) $(PYTHON) tests/tools/hosts.py down
	$(SUDO) rm -rf $(VENV) .ansible .cache openagora-firewall-*.tar.gz

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/tools/packages python3-venv
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/pip
	pip install --quiet --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(VENV)/bin/pip
	pip install --quiet --quiet --disable-pip-version-check --requirement $<
	@touch $(VENV)/.runtime $@
