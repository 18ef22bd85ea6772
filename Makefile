# make demo      build the ISO, make an appliance that cannot boot, graft it, boot it
# make test      all checks, unit tests and one end-to-end run
# make test-vm   the larger matrices, too
# make test-reproducible  build the ISO twice and compare
# make torture   every fault from one seed: [SEED=n] [COUNT=n] [FAMILY="a b"]
# make torture-mutants  broken builds, each of which a family must catch
# make bench     how long it takes, beside guestfish
# Each works alone on a fresh Debian 12 or 13, as root or with sudo.

PYTHON := .venv/bin/python
ISO := build/bootgraft.iso

.PHONY: demo test test-vm test-reproducible torture torture-mutants bench lint iso prepare clean

demo: iso
	.venv/bin/bootgraft demo --iso $(ISO)

test: iso lint
	$(PYTHON) -m pytest -m "not matrix and not vm and not reproducible" --numprocesses 4
	$(PYTHON) -m pytest -m "not matrix and vm" --numprocesses 2 --dist loadfile

test-vm: iso
	$(PYTHON) -m pytest -m "not reproducible"

test-reproducible: iso
	$(PYTHON) -m pytest -m reproducible

torture: iso
	PYTHONPATH=tests $(PYTHON) -m torture --iso $(ISO) $(if $(SEED),--seed $(SEED)) \
		$(if $(COUNT),--count $(COUNT)) $(if $(FAMILY),--family $(FAMILY))

torture-mutants: iso
	PYTHONPATH=tests $(PYTHON) -m torture.mutants --iso $(ISO)

bench: iso
	PYTHONPATH=tests $(PYTHON) -m image.bench --iso $(ISO)

lint: prepare
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	git ls-files -z '*.sh' image-build/auto .ci/run | xargs -0 shellcheck

iso: prepare
	@[ -f $(ISO) ] && [ "$$(cat $(ISO).inputs)" = "$$(image-build/build.sh --hash)" ] \
		|| image-build/build.sh --output $(ISO)

prepare:
	tools/prepare.sh

clean:
	rm -rf build
