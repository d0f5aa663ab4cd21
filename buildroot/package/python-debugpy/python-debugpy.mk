################################################################################
#
# python-debugpy
#
################################################################################

PYTHON_DEBUGPY_VERSION = 1.8.22
PYTHON_DEBUGPY_SOURCE = debugpy-$(PYTHON_DEBUGPY_VERSION).tar.gz
PYTHON_DEBUGPY_SITE = https://files.pythonhosted.org/packages/44/9d/3cb6693342acf96802dba89934a5b8da43c201d764ebd1f2c0514a3d42bd
PYTHON_DEBUGPY_SETUP_TYPE = setuptools
PYTHON_DEBUGPY_LICENSE = MIT, EPL-1.0 (pydevd), Python-2.0 (parts of pydevd)
PYTHON_DEBUGPY_LICENSE_FILES = LICENSE src/debugpy/ThirdPartyNotices.txt

# The sources of what is compiled would take 6 MB.
define PYTHON_DEBUGPY_REMOVE_SOURCES
	find $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages/debugpy \
		\( -name '*.c' -o -name '*.pyx' -o -name '*.pxd' \) -delete
endef

PYTHON_DEBUGPY_POST_INSTALL_TARGET_HOOKS += PYTHON_DEBUGPY_REMOVE_SOURCES

$(eval $(python-package))
