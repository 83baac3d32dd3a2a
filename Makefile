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
std       := -std=c11 -D_GNU_SOURCE -DOE_VERSION='"$(VERSION)"' -DOE_SYSCONFDIR='"$(SYSCONFDIR)"'
warn      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings -Wvla -Wformat=2
hard      := -fstack-protector-strong -fno-strict-aliasing -fexceptions
all_c      = $(std) $(warn) $(hard) $(FORTIFY) $(CPPFLAGS) $(CFLAGS) $(OE_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP
link_hard := -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack
ifeq ($(findstring sanitize,$(OE_CFLAGS)),)
link_defs := -Wl,-z,defs
endif

sodium_c  := $(shell $(PKG_CONFIG) --cflags libsodium 2>/dev/null)
sodium_l   = $(shell $(PKG_CONFIG) --libs libsodium 2>/dev/null || echo -lsodium)
inih_l     = $(shell $(PKG_CONFIG) --libs inih 2>/dev/null || echo -linih)
check_l    = $(shell $(PKG_CONFIG) --libs check 2>/dev/null || echo -lcheck)

core_o := $(patsubst %.c,$(O)/%.o,$(wildcard shim/core/*.c))
os_o   := $(patsubst %.c,$(O)/%.o,$(wildcard shim/os/*.c))
hook_o := $(patsubst %.c,$(O)/%.o,$(wildcard shim/hook/*.c))

all: $(B)/libcore.a $(B)/libos.a $(B)/liboe-mqtt.so $(B)/oe-mqttctl

$(O)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(all_c) $(sodium_c) $(if $(filter shim/hook/%,$<),-ftls-model=initial-exec) -c -o $@ $<

$(B)/libcore.a: $(core_o)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/libos.a: $(os_o)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/liboe-mqtt.so: $(hook_o) $(B)/libos.a $(B)/libcore.a shim/hook/exports.map
	$(call say,LINK,$@)
	$(Q)$(CC) -shared $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) $(link_hard) $(link_defs) -Wl,--version-script=shim/hook/exports.map \
	  -Wl,-soname,liboe-mqtt.so -o $@ $(hook_o) $(B)/libos.a $(B)/libcore.a $(sodium_l) $(inih_l) -ldl -pthread

$(B)/oe-mqttctl: $(O)/tools/oe-mqttctl.o $(B)/libos.a $(B)/libcore.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) $(link_hard) -pie -o $@ $^ $(sodium_l) $(inih_l)

# ---- tests -------------------------------------------------------------------------------------------------------------------------------
unit_src := $(wildcard tests/unit/test_*.c)
unit_bin := $(patsubst tests/unit/%.c,$(B)/unit/%,$(unit_src))

$(B)/unit/%: $(O)/tests/unit/%.o $(B)/libos.a $(B)/libcore.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(OE_CFLAGS) $(LDFLAGS) -o $@ $^ $(check_l) $(sodium_l) $(inih_l) -pthread

.PRECIOUS: $(O)/%.o
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z][a-z_. -]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

clean: ## remove everything that was built
	rm -rf build

.PHONY: all help clean
-include $(shell find $(O) -name '*.d' 2>/dev/null)
