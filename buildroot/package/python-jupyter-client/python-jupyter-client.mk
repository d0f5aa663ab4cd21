################################################################################
#
# python-jupyter-client
#
################################################################################

PYTHON_JUPYTER_CLIENT_VERSION = 8.10.0
PYTHON_JUPYTER_CLIENT_SOURCE = jupyter_client-$(PYTHON_JUPYTER_CLIENT_VERSION).tar.gz
PYTHON_JUPYTER_CLIENT_SITE = https://files.pythonhosted.org/packages/c5/2a/906772148a06e48885039e0250c340b770a55bbf37b08d6ee0449df369c3
PYTHON_JUPYTER_CLIENT_SETUP_TYPE = hatch
PYTHON_JUPYTER_CLIENT_LICENSE = BSD-3-Clause
PYTHON_JUPYTER_CLIENT_LICENSE_FILES = LICENSE

$(eval $(python-package))
