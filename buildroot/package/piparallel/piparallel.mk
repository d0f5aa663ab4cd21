################################################################################
#
# piparallel
#
################################################################################

# The commit that this tree is of, so that the two always fit. There is no hash
# to keep: the commit's name is one of its content, and its Cargo.lock has those
# of all crates. For changes that are not committed, see
# PIPARALLEL_OVERRIDE_SRCDIR in the README.
PIPARALLEL_VERSION := $(shell git -C $(BR2_EXTERNAL_PIPARALLEL_PATH) rev-parse HEAD)
ifeq ($(BR2_PACKAGE_PIPARALLEL)$(PIPARALLEL_VERSION),y)
$(error piparallel: $(BR2_EXTERNAL_PIPARALLEL_PATH) is of no git repository, so its commit is not known; clone it)
endif
PIPARALLEL_SITE = file://$(realpath $(BR2_EXTERNAL_PIPARALLEL_PATH)/..)
PIPARALLEL_SITE_METHOD = git
PIPARALLEL_LICENSE = MIT or Apache-2.0
PIPARALLEL_LICENSE_FILES = LICENSE.md LICENSE-MIT LICENSE-APACHE
PIPARALLEL_SUBDIR = daemon

# As the project builds and measures it; Buildroot would have a larger and
# slower one.
PIPARALLEL_CARGO_ENV = \
	CARGO_PROFILE_RELEASE_OPT_LEVEL=3 \
	CARGO_PROFILE_RELEASE_LTO=fat \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1

define PIPARALLEL_USERS
	piparallel -1 piparallel -1 * /var/lib/piparallel - - piparallel node
	piparallel-engine -1 piparallel-engine -1 * /var/cache/piparallel-engine - - piparallel engines
endef

# Buildroot's targets have neither manual nor completions.
define PIPARALLEL_INSTALL_INIT_SYSTEMD
	$(@D)/image/install-data - $(TARGET_DIR)
endef

$(eval $(cargo-package))
