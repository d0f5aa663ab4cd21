################################################################################
#
# python-comm
#
################################################################################

PYTHON_COMM_VERSION = 0.2.3
PYTHON_COMM_SOURCE = comm-$(PYTHON_COMM_VERSION).tar.gz
PYTHON_COMM_SITE = https://files.pythonhosted.org/packages/4c/13/7d740c5849255756bc17888787313b61fd38a0a8304fc4f073dfc46122aa
PYTHON_COMM_SETUP_TYPE = hatch
PYTHON_COMM_LICENSE = BSD-3-Clause
PYTHON_COMM_LICENSE_FILES = LICENSE

$(eval $(python-package))
