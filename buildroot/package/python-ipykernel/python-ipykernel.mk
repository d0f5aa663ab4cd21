################################################################################
#
# python-ipykernel
#
################################################################################

PYTHON_IPYKERNEL_VERSION = 7.3.0
PYTHON_IPYKERNEL_SOURCE = ipykernel-$(PYTHON_IPYKERNEL_VERSION).tar.gz
PYTHON_IPYKERNEL_SITE = https://files.pythonhosted.org/packages/3d/c4/e4a38f579de4225a561305666f7541cdabb30075def2aa1ac17bd73c1fb5
PYTHON_IPYKERNEL_SETUP_TYPE = hatch
PYTHON_IPYKERNEL_LICENSE = BSD-3-Clause
PYTHON_IPYKERNEL_LICENSE_FILES = LICENSE
# Its build hook writes the kernel's description for Jupyter, for which it needs
# jupyter_client on the host. jupyter_client knows this kernel without it.
PYTHON_IPYKERNEL_ENV = HATCH_BUILD_NO_HOOKS=true
PYTHON_IPYKERNEL_BUILD_OPTS = --skip-dependency-check

define PYTHON_IPYKERNEL_NO_DESCRIPTION
	mkdir -p $(@D)/data_kernelspec
endef

PYTHON_IPYKERNEL_POST_PATCH_HOOKS += PYTHON_IPYKERNEL_NO_DESCRIPTION

$(eval $(python-package))
