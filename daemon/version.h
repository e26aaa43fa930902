#ifndef ORC_VERSION_H
#define ORC_VERSION_H
#ifdef HAVE_CONFIG_H
#include <config.h>
#endif
#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "dev" /* built without configure */
#endif
#endif
