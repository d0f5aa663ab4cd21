################################################################################
#
# python-ipyparallel
#
################################################################################

PYTHON_IPYPARALLEL_VERSION = 9.2.0
PYTHON_IPYPARALLEL_SOURCE = ipyparallel-$(PYTHON_IPYPARALLEL_VERSION).tar.gz
PYTHON_IPYPARALLEL_SITE = https://files.pythonhosted.org/packages/3d/05/f60bd7d99c1eace2d887e8d3c9cdef6b195826bcec866366fae8755e373f
PYTHON_IPYPARALLEL_SETUP_TYPE = hatch
PYTHON_IPYPARALLEL_LICENSE = BSD-3-Clause
PYTHON_IPYPARALLEL_LICENSE_FILES = COPYING.md
# JupyterLab would be needed to build its extension, which is built already.
PYTHON_IPYPARALLEL_ENV = HATCH_BUILD_NO_HOOKS=true
PYTHON_IPYPARALLEL_BUILD_OPTS = --skip-dependency-check
# etc/jupyter and share/jupyter are looked for here.
PYTHON_IPYPARALLEL_INSTALL_TARGET_OPTS = --data=$(TARGET_DIR)/usr

$(eval $(python-package))
