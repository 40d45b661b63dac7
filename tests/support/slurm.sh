#!/bin/sh
# One-node Slurm for tests/ranks/srun.test.ts: slurm.sh start FOLDER, slurm.sh stop FOLDER. FOLDER gets the
# configuration, the state and the logs. Needs root, and Debian's slurmctld, slurmd, slurm-client and munge. Then:
#   SLURM_CONF=FOLDER/slurm.conf node --test --conditions=dynamoe-source tests/ranks/srun.test.ts
set -eu
action=$1 folder=$2

start() {
  mkdir -p "$folder/state" "$folder/spool" /run/munge
  folder=$(cd "$folder" && pwd)
  host=$(hostname -s)
  cat > "$folder/slurm.conf" << END
ClusterName=dynamoe
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
$(slurmd -C | grep ^NodeName) NodeAddr=127.0.0.1
PartitionName=all Nodes=ALL Default=YES State=UP
END
  export SLURM_CONF="$folder/slurm.conf"
  # Packages that were installed without a running init leave munged stopped, and its folder to be made.
  chown munge: /run/munge
  munge -n > "$folder/munge.log" 2>&1 || setpriv --reuid munge --regid munge --clear-groups munged
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if [ "$(sinfo --noheader --format %t)" = idle ]; then
      echo "SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 1
  done
  echo "the node is not idle after 10 s: see $folder/slurmd.log and $folder/slurmctld.log" >&2
  exit 1
}

case $action in
  start) start ;;
  stop) for daemon in slurmd slurmctld; do kill "$(cat "$folder/$daemon.pid")"; done ;;
  *) echo "slurm.sh start FOLDER | slurm.sh stop FOLDER" >&2 && exit 2 ;;
esac
