# OE-MQTT. `make help` lists the targets.

PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
MANDIR     ?= $(PREFIX)/share/man
SYSCONFDIR ?= /etc/oe-mqtt
DOCDIR     ?= $(PREFIX)/share/doc/oe-mqtt
PKG_CONFIG ?= pkg-config
CLANG      ?= clang
PYTHON     ?= /usr/bin/python3
VERSION    := 0.1.0

# One folder of objects per variant: make VARIANT=asan builds into build/asan.
VARIANT ?=
ifeq ($(VARIANT),)
B := build
else
B := build/$(VARIANT)
endif
O := $(B)/obj

V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-8s %s\n' '$(1)' '$(2)'
else
Q :=
say = @:
endif

# Project flags: never in CFLAGS, which belongs to whoever packages this. OE_CFLAGS is for the variants below.
OE_CFLAGS ?=
FORTIFY   ?= -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
CFLAGS    ?= -O2 -g
std       := -std=c11 -D_GNU_SOURCE -DOE_VERSION='"$(VERSION)"' -DOE_SYSCONFDIR='"$(SYSCONFDIR)"' -DOE_LIBDIR='"$(LIBDIR)"'
warn      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings -Wvla -Wformat=2
hard      := -fstack-protector-strong -fno-strict-aliasing -fexceptions
# On 32-bit machines: any inode, any year. Not for the exported names and what is behind them:
# with these a source that says fcntl means fcntl64, and both are wanted.
wide      := -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64
narrow    := -U_FILE_OFFSET_BITS -U_TIME_BITS
all_c      = $(std) $(warn) $(hard) $(FORTIFY) $(CPPFLAGS) $(CFLAGS) $(OE_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP \
             $(if $(filter shim/hook/hooks% shim/hook/real%,$<),$(narrow),$(wide))
link_hard := -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack
ifeq ($(findstring sanitize,$(OE_CFLAGS)),)
link_defs := -Wl,-z,defs
endif

sodium_c  := $(shell $(PKG_CONFIG) --cflags libsodium 2>/dev/null)
sodium_l   = $(shell $(PKG_CONFIG) --libs libsodium 2>/dev/null || echo -lsodium)
inih_l     = $(shell $(PKG_CONFIG) --libs inih 2>/dev/null || echo -linih)
jansson_c := $(shell $(PKG_CONFIG) --cflags jansson 2>/dev/null)
jansson_l  = $(shell $(PKG_CONFIG) --libs jansson 2>/dev/null || echo -ljansson)
elf_c     := $(shell $(PKG_CONFIG) --cflags libelf 2>/dev/null)
elf_l      = $(shell $(PKG_CONFIG) --libs libelf 2>/dev/null || echo -lelf)
check_l    = $(shell $(PKG_CONFIG) --libs check 2>/dev/null || echo -lcheck)

core_o := $(patsubst %.c,$(O)/%.o,$(wildcard shim/core/*.c))
os_o   := $(patsubst %.c,$(O)/%.o,$(wildcard shim/os/*.c))
hook_o := $(patsubst %.c,$(O)/%.o,$(wildcard shim/hook/*.c))

all: $(B)/libcore.a $(B)/libos.a $(B)/liboe-mqtt.so $(B)/oe-mqttctl ## the library, the launcher's helper, libcore.a and libos.a

$(O)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(all_c) $(sodium_c) $(if $(filter tools/%,$<),$(jansson_c) $(elf_c)) $(if $(filter shim/hook/%,$<),-ftls-model=initial-exec) -c -o $@ $<

$(B)/libcore.a: $(core_o)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/libos.a: $(os_o)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/liboe-mqtt.so: $(hook_o) $(B)/libos.a $(B)/libcore.a shim/hook/exports.map
	$(call say,LINK,$@)
	$(Q)$(CC) -shared $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) $(link_hard) $(link_defs) -Wl,-Bsymbolic-functions -Wl,--version-script=shim/hook/exports.map \
	  -Wl,-soname,liboe-mqtt.so -o $@ $(hook_o) $(B)/libos.a $(B)/libcore.a $(sodium_l) $(inih_l) -ldl -pthread

ctl_o := $(patsubst %.c,$(O)/%.o,$(wildcard tools/oe-mqttctl.c tools/ctl_*.c))

$(B)/oe-mqttctl: $(ctl_o) $(B)/libos.a $(B)/libcore.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) $(link_hard) -pie -o $@ $^ $(sodium_l) $(inih_l) $(jansson_l) $(elf_l)

# ---- what a newcomer runs ------------------------------------------------------------------------------------------------------------------
deps: ## install the Debian packages that building, demo and check need (once, as root)
	@tests/deps.sh base

deps-ci: ## ... and those of asan, tsan, lint, fuzz, valgrind
	@tests/deps.sh base ci

deps-all: ## ... and those of interop-all
	@tests/deps.sh base all

deps-bench: ## ... and those of bench
	@tests/deps.sh base bench

deps-cross: ## ... and those of cross-check, which downloads more of other architectures into build/cross
	@tests/deps.sh base cross

demo: deps ## the main job, shown: stock mosquitto, mosquitto_sub and mosquitto_pub talk encrypted
	@$(MAKE) --no-print-directory all
	$(Q)$(PYTHON) tests/demo/demo.py

check: deps ## all tests
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory unit preload fault interop
	@cd $(B)/counts && cat preload fault interop

check-all: check ## all tests, those too that take long or need Node.js, Java, RabbitMQ, other architectures (about an hour)
	@$(MAKE) --no-print-directory interop-all fault-all cross-check
	@cd $(B)/counts && cat preload fault-all interop interop-all cross-check

# ---- tests -------------------------------------------------------------------------------------------------------------------------------
# pytest: two workers, no cache files, a private temporary folder that is removed; counts what it met, and writes it down as $(B)/counts/TARGET
pytest = OE_MQTT_COUNTS=$(B)/counts/$@ PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -q -p no:cacheprovider -p tests.lib.counts -n $(JOBS)
JOBS  ?= 2

unit_src := $(wildcard tests/unit/test_*.c)
unit_bin := $(patsubst tests/unit/%.c,$(B)/unit/%,$(unit_src))
unit_lib := $(patsubst %.c,$(O)/%.o,$(filter-out $(unit_src),$(wildcard tests/unit/*.c)))
fault_bin := $(patsubst tests/fault/%.c,$(B)/fault/%,$(wildcard tests/fault/test_*.c))
preload_bin := $(patsubst tests/preload/%.c,$(B)/preload/%,$(wildcard tests/preload/*.c))

$(B)/unit/%: $(O)/tests/unit/%.o $(unit_lib) $(B)/libos.a $(B)/libcore.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) -o $@ $^ $(check_l) $(sodium_l) $(inih_l) -pthread

# the allocators go through the test's wrappers; without hooks*.o, whose names would stand before libc's
$(B)/fault/%: $(O)/tests/fault/%.o $(unit_lib) $(filter-out $(O)/shim/hook/hooks%,$(hook_o)) $(B)/libos.a $(B)/libcore.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free -o $@ $^ $(check_l) $(sodium_l) $(inih_l) -ldl -pthread

# programs that run under the library
$(B)/preload/%: tests/preload/%.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(std) $(warn) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) -o $@ $< -pthread -ldl

# the work of tests/interop by C clients; what is built for tests is the same for all variants of the library
client_l_work_libmosquitto := -lmosquitto
client_l_work_paho_sync    := -lpaho-mqtt3c
client_l_work_paho_async   := -lpaho-mqtt3a
client_bin := $(patsubst tests/interop/clients/%.c,build/interop/%,$(wildcard tests/interop/clients/*.c))
build/interop/%: tests/interop/clients/%.c tests/interop/clients/work.h
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(std) $(warn) -O2 -g -o $@ $< $(client_l_$*) $(sodium_l) -pthread

# packages from the npm registry, as package-lock.json names them, with a cache of their own
build/interop/node/done: tests/interop-all/package.json tests/interop-all/package-lock.json
	$(call say,NPM,$(@D))
	@rm -rf $(@D) && mkdir -p $(@D) && cp $^ $(@D)
	$(Q)cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error --cache=../npm-cache >/dev/null
	@touch $@

java_path := $(subst $(eval ) ,:,$(foreach jar,mqtt-client hawtbuf hawtdispatch hawtdispatch-transport,/usr/share/java/$(jar).jar))
build/interop/Work.class: tests/interop-all/Work.java
	$(call say,JAVAC,$@)
	@mkdir -p $(@D)
	$(Q)javac -cp $(java_path) -d $(@D) $<

unit: $(filter-out $(UNIT_SKIP:%=$(B)/unit/%),$(unit_bin) $(fault_bin)) ## unit tests (Check)
	@set -e; for t in $^; do $(RUN) $$t; done

test-programs: $(unit_bin) $(fault_bin) $(preload_bin)

preload: all $(preload_bin) ## the library under real and under nasty programs
	$(Q)$(pytest) tests/preload

fault: all ## system calls of the library that fail, one after the other: a sample
	$(Q)$(pytest) tests/fault

fault-all: all ## ... all of them (about 10 minutes)
	$(Q)OE_FAULT_ALL=1 $(pytest) tests/fault

interop: all $(client_bin) ## stock MQTT programs, an independent implementation, attackers
	$(Q)$(pytest) tests/vectors tests/interop

interop-all: deps-all ## ... and Node.js, Java, RabbitMQ: each client at each broker
	@$(MAKE) --no-print-directory all $(client_bin) build/interop/node/done build/interop/Work.class
	$(Q)$(pytest) --dist loadgroup tests/interop-all

# ---- other builds ------------------------------------------------------------------------------------------------------------------------
asan_flags := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan: ## unit tests and the library under stock programs with AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory VARIANT=asan OE_CFLAGS='$(asan_flags)' FORTIFY= all unit
	@$(MAKE) --no-print-directory all $(preload_bin)
	$(Q)OE_MQTT_LIBRARY=$(CURDIR)/build/asan/liboe-mqtt.so LD_PRELOAD_FIRST="$$($(CC) -print-file-name=libasan.so)" \
	  $(pytest) tests/preload/test_sanitizers.py -k asan

tsan: ## unit tests and threaded programs under the library with ThreadSanitizer
	@$(MAKE) --no-print-directory VARIANT=tsan OE_CFLAGS='-fsanitize=thread' FORTIFY= all unit
	$(Q)$(pytest) tests/preload/test_sanitizers.py -k tsan

valgrind: $(unit_bin) ## unit tests under valgrind
	@$(MAKE) --no-print-directory unit RUN='env OE_TEST_THIN=40 CK_FORK=no CK_TIMEOUT_MULTIPLIER=20 valgrind -q --error-exitcode=9 --leak-check=full --suppressions=tests/lib/valgrind.supp'

# Another architecture: Debian's packages of it in build/cross/ARCH, its objects in build/ARCH, its programs under qemu-user.
CROSS      ?= arm64 armhf
CROSS_DEBS ?= build/cross/debs
cross_arm64 := aarch64-linux-gnu qemu-aarch64
cross_armhf := arm-linux-gnueabihf qemu-arm
cross_root   = $(CURDIR)/build/cross/$*
cross_triple = $(word 1,$(cross_$*))
cross_qemu   = $(word 2,$(cross_$*)) -L $(cross_root)
cross_make   = $(MAKE) --no-print-directory VARIANT=$* CC='$(cross_triple)-gcc --sysroot=$(cross_root)' AR=$(cross_triple)-ar PKG_CONFIG='env \
  PKG_CONFIG_SYSROOT_DIR=$(cross_root) PKG_CONFIG_LIBDIR=$(cross_root)/usr/lib/$(cross_triple)/pkgconfig:$(cross_root)/usr/share/pkgconfig pkg-config'

build/cross/%.made: tests/cross/sysroot.sh
	$(call say,SYSROOT,build/cross/$*)
	@mkdir -p $(@D)
	$(Q)tests/cross/sysroot.sh $* build/cross/$* $(CROSS_DEBS) && touch $@

# the programs of tests/cross are built as such an architecture's newer programs are
$(B)/cross/%: tests/cross/%.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(std) $(warn) $(wide) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) -o $@ $<
cross_bin := $(patsubst tests/cross/%.c,$(B)/cross/%,$(wildcard tests/cross/*.c))
cross-programs: $(cross_bin)

# qemu makes up when a guest began, by which test_stats and every reader tell a process from one that had its number before
cross-%: build/cross/%.made
	+@$(cross_make) OE_CFLAGS=-Werror all test-programs cross-programs
	+@$(cross_make) unit UNIT_SKIP=test_stats RUN='env OE_TEST_THIN=40 CK_TIMEOUT_MULTIPLIER=20 $(cross_qemu)'

cross-check: deps-cross ## arm64 and armhf under qemu-user: build, unit tests, their own stock programs with ours (CROSS=ARCH: only that one)
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory $(addprefix cross-,$(CROSS))
	$(Q)OE_MQTT_CROSS='$(CROSS)' $(pytest) tests/cross

fuzz_src := $(wildcard tests/fuzz/fuzz_*.c)
fuzz_bin := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(fuzz_src))
FUZZ_SECONDS ?= 20
build/fuzz/%: tests/fuzz/%.c $(wildcard tests/fuzz/*.h tests/unit/drive.[ch] shim/core/*.[ch] shim/os/*.[ch])
	$(call say,FUZZ,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(std) $(warn) -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o $@ $< \
	  tests/unit/drive.c $(wildcard shim/core/*.c shim/os/*.c) $(sodium_l) $(inih_l)

fuzz: $(fuzz_bin) ## each fuzzer for FUZZ_SECONDS
	@set -e; for f in $(fuzz_bin); do name=$${f##*/fuzz_}; mkdir -p build/corpus/$$name; \
	  printf '  FUZZ     %s for %s s\n' $$name $(FUZZ_SECONDS); \
	  seeds=tests/fuzz/corpus/$$name; [ -d $$seeds ] || seeds=; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -artifact_prefix=build/fuzz/ -print_final_stats=0 \
	    build/corpus/$$name $$seeds >build/fuzz/$$name.log 2>&1 || { tail -40 build/fuzz/$$name.log; exit 1; }; \
	  grep -m1 -oE 'Done [0-9]+ runs.*' build/fuzz/$$name.log; done

coverage: ## line coverage of the unit tests, build/coverage/coverage.txt
	@$(MAKE) --no-print-directory VARIANT=coverage OE_CFLAGS='--coverage -O0' FORTIFY= unit
	@mkdir -p build/coverage && cd build/coverage && for f in core os; do \
	  gcov -n -o obj/shim/$$f obj/shim/$$f/*.gcno 2>/dev/null | grep -A1 "^File 'shim/" ; done | paste - - - | tee coverage.txt

bench: deps-bench ## ratios to plain MQTT and TLS: build/bench/bench.md, bench.svg (about 10 minutes)
	@$(MAKE) --no-print-directory all
	$(Q)$(PYTHON) tests/bench/bench.py $(BENCH_ARGS)

# ---- looks at the source -----------------------------------------------------------------------------------------------------------------
c_src := $(wildcard shim/*/*.[ch] tools/*.c)

lint: all ## layers, symbols, sizes, shell scripts, manual pages
	$(Q)set -e; for f in tests/lint/*.sh; do sh $$f; done
	$(Q)shellcheck tools/oe-mqtt tests/deps.sh tests/cross/*.sh tests/lint/*.sh .ci/run
	$(Q)for m in docs/man/*; do out=$$(man --warnings -E UTF-8 -l -Tutf8 $$m 2>&1 >/dev/null); [ -z "$$out" ] || { echo "$$m: $$out"; exit 1; }; done

format: ## clang-format the C sources
	clang-format -i $(c_src)

format-check: ## are they as clang-format would have them?
	$(Q)clang-format --dry-run --Werror $(c_src)

tidy: ## clang-tidy
	$(Q)clang-tidy --quiet $(filter %.c,$(c_src)) -- $(std)

compile_commands.json: $(filter %.c,$(c_src)) ## for clangd
	$(Q)$(PYTHON) -c 'import json,os,sys; json.dump([{"directory":os.getcwd(),"file":f,"arguments":["cc"]+sys.argv[1].split()+["-c",f]} for f in sys.argv[2:]],open("$@","w"),indent=1)' '$(std)' $^

# ---- install -----------------------------------------------------------------------------------------------------------------------------
man_pages := $(wildcard docs/man/*.[15])
install: all ## into $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(DOCDIR)
	install -m 755 build/liboe-mqtt.so $(DESTDIR)$(LIBDIR)/liboe-mqtt.so
	install -m 755 build/oe-mqttctl $(DESTDIR)$(BINDIR)/oe-mqttctl
	sed -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@BINDIR@|$(BINDIR)|g' tools/oe-mqtt >$(DESTDIR)$(BINDIR)/oe-mqtt
	chmod 755 $(DESTDIR)$(BINDIR)/oe-mqtt
	for m in $(man_pages); do to=$(DESTDIR)$(MANDIR)/man$${m##*.}/$${m##*/}; sed 's|/etc/oe-mqtt|$(SYSCONFDIR)|g' $$m >$$to && chmod 644 $$to; done
	install -m 644 README.md LICENSE docs/PROTOCOL.md oe-mqtt.conf.example $(DESTDIR)$(DOCDIR)/

uninstall: ## takes away what install put there; configuration and identity stay
	rm -f $(DESTDIR)$(LIBDIR)/liboe-mqtt.so $(DESTDIR)$(BINDIR)/oe-mqttctl $(DESTDIR)$(BINDIR)/oe-mqtt
	for m in $(notdir $(man_pages)); do rm -f $(DESTDIR)$(MANDIR)/man$${m##*.}/$$m; done
	rm -rf $(DESTDIR)$(DOCDIR)

dist: ## build/oe-mqtt-VERSION.tar.gz, unpacked, built and unit-tested
	@mkdir -p build && git archive --prefix=oe-mqtt-$(VERSION)/ -o build/oe-mqtt-$(VERSION).tar.gz HEAD
	@rm -rf build/dist && mkdir build/dist && tar -C build/dist -xzf build/oe-mqtt-$(VERSION).tar.gz
	@$(MAKE) --no-print-directory -C build/dist/oe-mqtt-$(VERSION) all unit
	@rm -rf build/dist
	@ls -l build/oe-mqtt-$(VERSION).tar.gz

help: ## this list
	@grep -hE '^[a-z][a-z_. -]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

clean: ## remove everything that was built
	rm -rf build

.PRECIOUS: $(O)/%.o build/obj/%.o build/cross/%.made
.DELETE_ON_ERROR:
.PHONY: all help clean deps deps-ci deps-bench deps-all deps-cross demo check check-all unit preload fault fault-all interop interop-all asan tsan valgrind
.PHONY: test-programs cross-programs cross-check fuzz coverage bench lint format format-check tidy install uninstall dist
-include $(shell find $(O) -name '*.d' 2>/dev/null)
