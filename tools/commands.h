// The subcommands of `inlay`, one file each. A command adds itself to the root; its callback does
// the work and ends with `throw Exit{code}` for an exit code other than 0, after saying why with
// complain().
#pragma once

#include "tools/command_line.h"

namespace inlay::tools {

void add_run_command(const Command &root);
void add_doctor_command(const Command &root);
void add_log_command(const Command &root);
void add_policy_command(const Command &root);
void add_ca_command(const Command &root);
void add_agent_command(const Command &root);
void add_status_command(const Command &root);
void add_enable_commands(const Command &root);  // enable and disable

}  // namespace inlay::tools
