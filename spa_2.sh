# gpus: 1
# seconds: 75
export PYTHONUNBUFFERED=1 SPF=$PWD/.spf PYTHONWARNINGS=ignore
timeout 74 python3 -W ignore $Q/m.py > $OUT/m.txt 2>&1; echo m $?; tail -3 $OUT/m.txt | cut -c1-300
