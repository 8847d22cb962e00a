"""Two programs in turns, the older one first in every other pair."""
import os
import json,subprocess,sys,time,statistics as st,shutil
T={"old":os.environ["OLD"],"new":os.environ["NEW"]}
B={k:t+"/target/release/longhaul" for k,t in T.items()}
def call(k,a):
    return subprocess.run([B[k],*a],cwd=T[k],capture_output=True,text=True)
def decode(k):
    out=call(k,["bench","decode","--batches","1,16","--contexts","256","--repeats","1","--json"]).stdout; r={}
    for l in out.splitlines():
        if l.startswith("{"):
            d=json.loads(l); r[f'{d["phase"]}{d["batch"]}']=1/d["tokens_per_s"]
    return r
def streambp(k):
    x=["--attention-kept-mib","96","--activations-kept-mib","0"] if k=="new" else []
    out=call(k,["bench","streambp","--paths","streambp","--tokens","2048","--repeats","4","--errors=never","--json",*x]).stdout; r={}
    for l in out.splitlines():
        if l.startswith("{"):
            d=json.loads(l); r["equal_forward"]=d["forward_s"]; r["equal_both"]=d["forward_s"]+d["backward_s"]; r["equal_peak"]=d["peak_bytes"]
    return r
def streambp_defaults(k):
    out=call(k,["bench","streambp","--paths","streambp","--tokens","2048","--repeats","2","--errors=never","--json"]).stdout; r={}
    for l in out.splitlines():
        if l.startswith("{"):
            d=json.loads(l); r["default_both"]=d["forward_s"]+d["backward_s"]; r["default_peak"]=d["peak_bytes"]
    return r
def quickstart(k):
    f=os.environ["SCRATCH"]+"/"+k; shutil.rmtree(f,ignore_errors=True); s=time.time()
    p=call(k,["train","configs/quickstart.toml","--run",f,"--overwrite"]); assert p.returncode==0,p.stderr[-500:]
    return {"quickstart":time.time()-s}
K={"decode":decode,"streambp":streambp,"streambp_defaults":streambp_defaults,"quickstart":quickstart}
rows=[]
for spec in sys.argv[1].split(","):
    kind,n=spec.split(":")
    for i in range(int(n)):
        for k in (("old","new") if i%2==0 else ("new","old")):
            for m,v in K[kind](k).items():
                rows.append({"measure":m,"pair":i+1,"program":k,"value":v}); open(os.environ["SCRATCH"]+"/rows.jsonl","a").write(json.dumps(rows[-1])+"\n")
    for m in sorted({r["measure"] for r in rows}):
        o={r["pair"]:r["value"] for r in rows if r["measure"]==m and r["program"]=="old"}; w={r["pair"]:r["value"] for r in rows if r["measure"]==m and r["program"]=="new"}
        ra=[w[p]/o[p] for p in o]
        print(m,"n",len(ra),"median ratio %.3f"%st.median(ra),"min %.3f max %.3f"%(min(ra),max(ra)),"old %.4g new %.4g"%(st.median(o.values()),st.median(w.values())),"best/best %.3f"%(min(w.values())/min(o.values())),flush=True)
