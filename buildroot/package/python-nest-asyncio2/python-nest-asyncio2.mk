################################################################################
#
# python-nest-asyncio2
#
################################################################################

PYTHON_NEST_ASYNCIO2_VERSION = 1.7.4
PYTHON_NEST_ASYNCIO2_SOURCE = nest_asyncio2-$(PYTHON_NEST_ASYNCIO2_VERSION).tar.gz
PYTHON_NEST_ASYNCIO2_SITE = https://files.pythonhosted.org/packages/32/2c/70e3b6bb2189cfd260280b7e1042bd622949a258663f95e887fada4ac1e6
PYTHON_NEST_ASYNCIO2_SETUP_TYPE = setuptools
PYTHON_NEST_ASYNCIO2_LICENSE = BSD-2-Clause
PYTHON_NEST_ASYNCIO2_LICENSE_FILES = LICENSE
PYTHON_NEST_ASYNCIO2_DEPENDENCIES = host-python-setuptools-scm

$(eval $(python-package))
