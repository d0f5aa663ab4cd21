################################################################################
#
# python-jupyter-core
#
################################################################################

PYTHON_JUPYTER_CORE_VERSION = 5.9.1
PYTHON_JUPYTER_CORE_SOURCE = jupyter_core-$(PYTHON_JUPYTER_CORE_VERSION).tar.gz
PYTHON_JUPYTER_CORE_SITE = https://files.pythonhosted.org/packages/02/49/9d1284d0dc65e2c757b74c6687b6d319b02f822ad039e5c512df9194d9dd
PYTHON_JUPYTER_CORE_SETUP_TYPE = hatch
PYTHON_JUPYTER_CORE_LICENSE = BSD-3-Clause
PYTHON_JUPYTER_CORE_LICENSE_FILES = LICENSE

$(eval $(python-package))
