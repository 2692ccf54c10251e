#pragma once
#if __has_include("shim/arena/kernel.h")
#include "shim/arena/kernel.h"
#else
#include "shim/session/kernel.h"
#endif
